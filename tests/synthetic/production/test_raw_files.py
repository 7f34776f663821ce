from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ctrbench.errors import DataError, SettingError
from ctrbench.synthetic.production import raw_files as production_files
from ctrbench.synthetic.production.generator import ITEM_SEQUENCE, Production
from ctrbench.synthetic.production.raw_files import (
    RECIPE,
    Job,
    Made,
    content_digest,
    make_production,
    make_shard,
    read_recipe,
    shard_file,
)
from ctrbench.synthetic.production.spec import ProductionSpec

SPEC = ProductionSpec(
    rows=20_000, domains=50, shard_rows=1 << 12, calibration_rows=1 << 14, sequences=True, sequence_length=5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("production")
    make_production(SPEC, folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def test_a_folder_holds_the_recipe_and_shards_with_their_digests(folder: Path) -> None:
    shards = [shard_file(number) for number in range(5)]
    beside = [name.replace(".parquet", ".sha256") for name in shards]
    found = digests(folder)
    assert sorted(found) == sorted([RECIPE, *shards, *beside])
    for name, digest in zip(shards, beside, strict=True):
        assert (folder / digest).read_text().split() == [found[name], name]


def test_shards_hold_the_rows(folder: Path) -> None:
    recipe = read_recipe(folder)
    production = Production(recipe.spec, recipe.constants)
    table = pq.read_table([folder / shard_file(number) for number in range(5)])
    rows = production.rows(0, SPEC.rows)
    assert table.column_names == list(production.columns)
    for name, values in rows.items():
        if values.ndim == 1:
            expected = values.astype(np.float32) if values.dtype == np.float64 else values
            assert np.array_equal(table[name].to_numpy(), expected), name


def test_sequences_are_lists_without_their_padding(folder: Path) -> None:
    recipe = read_recipe(folder)
    padded = Production(recipe.spec, recipe.constants).rows(0, 4_096, [ITEM_SEQUENCE])[ITEM_SEQUENCE]
    lists = pq.read_table(folder / shard_file(0))[ITEM_SEQUENCE].to_pylist()
    assert lists == [[one for one in row if one > 0] for row in padded.tolist()]


def test_whole_shards_are_not_made_again(folder: Path) -> None:
    before = digests(folder)
    assert [made.is_new for made in make_production(SPEC, folder)] == [False] * 5
    assert digests(folder) == before


@pytest.mark.parametrize("harm", ["damage", "lose", "undigest"])
def test_what_is_not_whole_is_made_again(tmp_path: Path, folder: Path, harm: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / shard_file(2)
    if harm == "damage":
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    else:
        (shard if harm == "lose" else shard.with_suffix(".sha256")).unlink()
    assert [made.is_new for made in make_production(SPEC, tmp_path)] == [False, False, True, False, False]
    assert digests(tmp_path) == digests(folder)


def test_any_order_and_any_number_of_workers_make_the_same_files(tmp_path: Path, folder: Path) -> None:
    def backwards(function: Callable[[Job], Made], jobs: Sequence[Job]) -> Iterator[Made]:
        with ThreadPoolExecutor(16) as pool:
            yield from pool.map(function, reversed(jobs))

    made = make_production(SPEC, tmp_path, map=backwards)
    assert [one.number for one in made] == [0, 1, 2, 3, 4]
    assert digests(tmp_path) == digests(folder)


def test_processes_make_the_same_files(tmp_path: Path, folder: Path) -> None:
    make_production(SPEC, tmp_path, workers=2)
    assert digests(tmp_path) == digests(folder)


def test_an_interrupt_leaves_whole_shards_only(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = production_files._write, []

    def interrupted(production: Production, start: int, stop: int, file: Path) -> None:
        write(production, start, stop, file)
        calls.append(start)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(production_files, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_production(SPEC, tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == [shard_file(0), shard_file(1)]
    assert list(tmp_path.glob(".*")) == []
    assert [made.is_new for made in make_production(SPEC, tmp_path)] == [False, False, True, True, True]
    assert digests(tmp_path) == digests(folder)


def test_what_a_killed_worker_left_is_removed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / RECIPE).write_bytes((folder / RECIPE).read_bytes())
    left = tmp_path / f".{shard_file(1)}.4711.part"
    left.write_bytes(b"half")
    make_shard(Job(tmp_path, 1))
    assert not left.exists()


def test_progress_is_told_in_rows(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    make_production(SPEC, tmp_path, report=lambda done, rows: told.append((done, rows)))
    assert told == [(done, 20_000) for done in (4_096, 8_192, 12_288, 16_384, 20_000)]


def test_a_folder_holds_one_dataset(folder: Path) -> None:
    with pytest.raises(SettingError, match="one dataset"):
        make_production(SPEC.model_copy(update={"seed": 1}), folder)


def test_a_damaged_recipe_is_told(tmp_path: Path) -> None:
    (tmp_path / RECIPE).write_text("{")
    with pytest.raises(DataError, match="damaged"):
        make_production(SPEC, tmp_path)


def test_room_is_looked_for_before_anything_is_made(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"rows": 10**10})
    with pytest.raises(DataError, match="no space left"):
        make_production(spec, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_digests_see_every_value_and_no_last_digit() -> None:
    columns = {"id": np.array([1, 2]), "p": np.array([0.1, 0.2])}
    digest = content_digest(columns)
    assert content_digest({"p": columns["p"] + 1e-17, "id": columns["id"]}) == digest
    assert content_digest({**columns, "p": columns["p"] + 2e-9}) != digest
    assert content_digest({**columns, "id": np.array([1, 3])}) != digest
