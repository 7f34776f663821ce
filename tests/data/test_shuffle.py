from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.data.card import DatasetCard
from ctrbench.data.load import load_split
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared
from ctrbench.data.shuffle import ShuffledDomains, permuted, with_shuffled_domains
from ctrbench.data.stream import StreamedSplit
from ctrbench.names import Split

MakeCard = Callable[..., DatasetCard]
ROWS = 3_000


@pytest.fixture
def prepared(make_card: MakeCard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Prepared:
    """2,000 training rows in ten shards; city and device depend on each other, and some cities are in test only."""
    monkeypatch.setattr("ctrbench.data.shards.SHARD_ROWS", 200)
    generator = np.random.default_rng(3)
    number = generator.integers(0, 4, ROWS) + np.where(np.arange(ROWS) >= 2_800, 2, 0)
    frame = pl.DataFrame(
        {
            "time": np.arange(ROWS),
            "city": [f"c{value}" for value in number],
            "device": np.where(generator.random(ROWS) < 0.2 + 0.15 * number, "m", "w"),
            "tags": ["x"] * ROWS,
            "price": generator.random(ROWS),
            "click": generator.integers(0, 2, ROWS),
        }
    )
    return prepare(make_card(frame), home=tmp_path / "home")


def load_both(
    prepared: Prepared, split: Split = Split.TRAIN, indicator: str = "city"
) -> tuple[SplitData, SplitData]:
    """The rows of a split, and the same rows with shuffled domains."""
    data = load_split(prepared, split, domain_set="default", indicator=indicator)
    shuffle = ShuffledDomains.of(prepared, split, domain_set="default", indicator=indicator)
    return data, with_shuffled_domains(data, shuffle)


def joint(ids_BD: torch.Tensor, *columns: torch.Tensor) -> list[tuple[int, ...]]:
    return list(map(tuple, torch.cat([ids_BD.long(), torch.stack(columns, dim=1)], dim=1).tolist()))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1_000, 4_097])
def test_every_index_is_drawn_once(size: int) -> None:
    assert sorted(permuted(np.arange(size), size=size, key=b"a").tolist()) == list(range(size))


def test_a_permutation_depends_on_its_key_and_is_computed_per_row() -> None:
    first, second = (permuted(np.arange(999), size=999, key=key) for key in (b"a", b"b"))
    assert (first != second).mean() > 0.9
    assert (first != np.arange(999)).mean() > 0.9
    assert permuted(np.arange(400, 500), size=999, key=b"a").tolist() == first[400:500].tolist()


def test_neighbors_are_permuted_apart() -> None:
    values = permuted(np.arange(50_000), size=50_000, key=b"a").astype(np.float64)
    lags = [np.corrcoef(values[:-lag], values[lag:])[0, 1] for lag in (1, 2, 16, 256)]
    assert max(map(abs, [*lags, np.corrcoef(values, np.arange(50_000))[0, 1]])) < 0.02


@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize("indicator", ["city", "all"])
def test_tuples_are_permuted_as_a_whole(prepared: Prepared, split: Split, indicator: str) -> None:
    data, shuffled = load_both(prepared, split, indicator)
    assert shuffled.copies_BD is not None
    before = joint(data.ids_BF[:, :2], data.domain_B, data.indicator_B)
    after = joint(shuffled.copies_BD, shuffled.domain_B, shuffled.indicator_B)
    assert Counter(before) == Counter(after)
    assert before != after
    assert (shuffled.indicator_B is shuffled.domain_B) is (indicator == "all")


def test_the_test_split_has_tuples_without_a_domain(prepared: Prepared) -> None:
    _, shuffled = load_both(prepared, Split.TEST)
    assert 0 < (shuffled.domain_B == 0).sum() < len(shuffled)


def test_shuffled_domains_are_independent_of_all_that_a_row_has(prepared: Prepared) -> None:
    data, shuffled = load_both(prepared)
    price, label = data.numeric_BK[:, 0].numpy(), data.label_B.numpy()
    expected = np.bincount(data.domain_B) / len(data)
    for column in (
        data.domain_B.numpy(),
        (price > 0).astype(int),
        label.astype(int),
        np.arange(2_000) // 500,
    ):
        for value in np.unique(column):
            own = shuffled.domain_B.numpy()[column == value]
            error = np.sqrt(expected * (1 - expected) / len(own)) + 1e-9
            assert (np.abs(np.bincount(own, minlength=len(expected)) / len(own) - expected) / error).max() < 4


def test_inputs_labels_and_domains_of_metrics_stay(prepared: Prepared) -> None:
    data, shuffled = load_both(prepared)
    assert shuffled.ids_BF is data.ids_BF
    assert shuffled.label_B is data.label_B
    assert shuffled.evaluation_domain.tolist() == data.domain_B.tolist()
    assert data.evaluation_domain.tolist() == data.domain_B.tolist()
    assert shuffled.evaluation_domain.dtype == np.int32


def test_splits_are_permuted_apart(prepared: Prepared) -> None:
    dev, test = (
        ShuffledDomains.of(prepared, split, domain_set="default", indicator="city")
        for split in (Split.DEV, Split.TEST)
    )
    assert dev.num_rows == test.num_rows == 500
    assert dev.key != test.key


def test_streamed_rows_have_the_same_shuffled_domains(prepared: Prepared) -> None:
    _, complete = load_both(prepared)
    shuffle = ShuffledDomains.of(prepared, Split.TRAIN, domain_set="default", indicator="city")
    train = StreamedSplit(
        prepared=prepared, split=Split.TRAIN, domain_set="default", indicator="city", window=450,
        device=torch.device("cpu"), shuffle=shuffle,
    )  # fmt: skip
    windows = [window.data for window in train.windows((1, 0))]
    for parts in (windows, list(train.pieces())):
        assert sum(map(len, parts)) == 2_000
        for part in parts:
            rows = part.row.copy()
            assert part.copies_BD is not None
            assert complete.copies_BD is not None
            assert torch.equal(part.copies_BD, complete.copies_BD[rows])
            assert torch.equal(part.domain_B, complete.domain_B[rows])
            assert torch.equal(part.indicator_B, complete.indicator_B[rows])
            assert part.evaluation_domain.tolist() == complete.evaluation_domain[rows].tolist()


def test_batches_have_the_copies_of_their_rows(prepared: Prepared) -> None:
    _, shuffled = load_both(prepared)
    assert shuffled.copies_BD is not None
    rows = torch.tensor([7, 3, 900])
    taken, sliced = shuffled.take(rows), shuffled.slice(10, 20)
    assert taken.copies_BD is not None
    assert sliced.copies_BD is not None
    assert torch.equal(taken.copies_BD, shuffled.copies_BD[rows])
    assert torch.equal(sliced.copies_BD, shuffled.copies_BD[10:20])
