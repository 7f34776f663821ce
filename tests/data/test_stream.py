from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.data.card import DatasetCard
from ctrbench.data.load import load_split
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared
from ctrbench.data.stream import StreamedSplit
from ctrbench.names import Split

MakeCard = Callable[..., DatasetCard]

ROWS, SHARD = 1200, 100


@pytest.fixture
def prepared(make_card: MakeCard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Prepared:
    """800 training rows in eight shards, 200 rows of dev and of test."""
    monkeypatch.setattr("ctrbench.data.shards.SHARD_ROWS", SHARD)
    generator = np.random.default_rng(5)
    frame = pl.DataFrame(
        {
            "time": np.arange(ROWS),
            "city": generator.choice(["A", "B", "C"], ROWS),
            "device": generator.choice(["m", "w"], ROWS),
            "tags": generator.choice(["x|y", "x", "", "z|x|y"], ROWS),
            "price": generator.random(ROWS),
            "click": generator.integers(0, 2, ROWS),
        }
    )
    return prepare(make_card(frame), home=tmp_path / "home")


def streamed(
    prepared: Prepared, window: int, split: Split = Split.TRAIN, indicator: str = "city"
) -> StreamedSplit:
    return StreamedSplit(
        prepared=prepared, split=split, domain_set="default", indicator=indicator, window=window,
        device=torch.device("cpu"),
    )  # fmt: skip


def contents(data: SplitData) -> list[tuple[object, ...]]:
    """Every value of every row."""
    values, offsets = data.bags[0]
    bags = [tuple(values[a:b].tolist()) for a, b in itertools.pairwise(offsets.tolist())]
    columns = (data.row, data.ids_BF, data.numeric_BK, data.domain_B, data.indicator_B, data.label_B)
    return [(bag, *(str(value) for value in row)) for bag, *row in zip(bags, *columns, strict=True)]


@pytest.mark.parametrize("window", [1, 250, 100_000])
def test_an_epoch_has_every_row_once(prepared: Prepared, window: int) -> None:
    train = streamed(prepared, window)
    complete = load_split(prepared, Split.TRAIN, domain_set="default", indicator="city")
    seen = [row for part in train.windows((1, 0)) for row in contents(part.data)]
    assert len(train) == len(seen) == 800
    assert sorted(seen, key=lambda row: int(row[1])) == contents(complete)  # type: ignore[call-overload]


def test_a_window_has_a_share_of_each_of_its_shards_in_time_order(prepared: Prepared) -> None:
    windows = list(streamed(prepared, 250).windows((1, 0)))
    assert len(windows) == 8 + 3 - 1
    for index, window in enumerate(windows):
        shards = np.bincount(window.data.row // SHARD, minlength=8)
        expected = [
            33 <= shards[shard] <= 34 if index - 2 <= shard <= index else shards[shard] == 0
            for shard in range(8)
        ]
        assert all(expected)
        assert (np.diff(window.data.row) > 0).all()


def test_each_epoch_and_seed_distribute_rows_differently(prepared: Prepared) -> None:
    train = streamed(prepared, 250)
    first, again, epoch, seed = (
        next(iter(train.windows(key))).data.row.tolist() for key in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert first == again
    assert first != epoch
    assert first != seed


@pytest.mark.parametrize("first", [1, 2, 5, 9, 10])
def test_an_epoch_resumes_at_any_window(prepared: Prepared, first: int) -> None:
    train = streamed(prepared, 250)
    complete, rest = list(train.windows((1, 0)))[first:], list(train.windows((1, 0), first=first))
    assert [contents(window.data) for window in rest] == [contents(window.data) for window in complete]
    assert [window.generator.random() for window in rest] == [
        window.generator.random() for window in complete
    ]
    assert [window.before for window in rest] == [window.before for window in complete]


@pytest.fixture
def with_a_short_shard(make_card: MakeCard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Prepared:
    """Two shards of 100 training rows and one of 2."""
    monkeypatch.setattr("ctrbench.data.shards.SHARD_ROWS", SHARD)
    rows = 303
    frame = pl.DataFrame(
        {
            "time": np.arange(rows),
            "city": ["A", "B", "C"] * 101,
            "device": ["m"] * rows,
            "tags": ["x"] * rows,
            "price": [1.0] * rows,
            "click": [0, 1, 1] * 101,
        }
    )
    return prepare(make_card(frame), home=tmp_path / "home")


def test_a_short_last_shard_is_merged_with_the_one_before(with_a_short_shard: Prepared) -> None:
    train = streamed(with_a_short_shard, 250)
    assert train.sizes == (100, 100, 2)
    windows = list(train.windows((1, 0)))
    assert [len(window.data) for window in windows] == [50, 101, 51]
    assert sorted(row for window in windows for row in window.data.row.tolist()) == list(range(202))
    assert sum(window.share for window in windows) == pytest.approx(1.0)


def test_shares_of_windows_are_proportional_to_their_rows(prepared: Prepared) -> None:
    windows = list(streamed(prepared, 250).windows((1, 0)))
    rows = np.array([len(window.data) for window in windows])
    assert np.array([window.share for window in windows]) == pytest.approx(rows / 800, abs=2 / 800)
    assert [window.before for window in windows] == pytest.approx(
        np.cumsum([0, *[window.share for window in windows]])[:-1]
    )


def test_pieces_yield_all_rows_in_time_order(prepared: Prepared) -> None:
    complete = load_split(prepared, Split.TEST, domain_set="default", indicator="all")
    pieces = list(streamed(prepared, 100, Split.TEST, "all").pieces())
    assert [len(piece) for piece in pieces] == [100, 100]
    assert [row for piece in pieces for row in contents(piece)] == contents(complete)


def test_latest_is_the_last_window_of_rows(prepared: Prepared) -> None:
    assert streamed(prepared, 250).latest().row.tolist() == list(range(500, 800))


def test_domain_and_indicator_share_one_tensor(prepared: Prepared) -> None:
    window = next(iter(streamed(prepared, 250, indicator="all").windows((1, 0)))).data
    assert window.indicator_B is window.domain_B


def test_only_one_shard_is_read_ahead(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    read_shard = Prepared.read_shard

    def record(self: Prepared, split: Split, index: int, columns: Sequence[str]) -> pa.Table:
        read.append(index)
        return read_shard(self, split, index, columns)

    monkeypatch.setattr(Prepared, "read_shard", record)
    windows = streamed(prepared, 250).windows((1, 0))
    next(windows)
    assert max(read) <= 2
    next(windows)
    assert max(read) <= 3
