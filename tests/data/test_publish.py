"""Datasets that are prepared again: what is read, and how the new files replace the old ones."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import polars as pl
import pytest

from ctrbench.data import publish, shards, staging
from ctrbench.data.card import DatasetCard
from ctrbench.data.home import dataset_folder
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.data.publish import WAITING
from ctrbench.errors import DataError
from ctrbench.readers.table import TableReader
from ctrbench.storage.files import lock

MakeCard = Callable[..., DatasetCard]


def is_empty(home: Path) -> bool:
    return [path for path in (home / "datasets").iterdir() if path.suffix != ".lock"] == []


def file_of(prepared: Prepared) -> int:
    return (prepared.root / "manifest.json").stat().st_ino


def make_old(card: DatasetCard) -> None:
    os.utime(card.path or "", ns=(1, 1))


def test_nothing_is_read_the_second_time(
    card: DatasetCard, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(card)
    first = prepare(card, home=home)
    before = file_of(first)
    monkeypatch.setattr(TableReader, "read", None)
    again = prepare(card, home=home)
    assert again.manifest == first.manifest
    assert file_of(again) == before


def test_a_new_file_with_the_same_content_changes_nothing(card: DatasetCard, home: Path) -> None:
    before = file_of(prepare(card, home=home))
    make_old(card)
    assert file_of(prepare(card, home=home)) == before


def test_a_recently_modified_file_is_read_despite_equal_size_and_time(
    make_card: MakeCard, frame: pl.DataFrame, home: Path
) -> None:
    first = prepare(make_card(frame), home=home)
    card = make_card(frame.with_columns(pl.col("city").replace("A", "Z")))
    inputs = (first.folder / "inputs.json").read_text()
    stat = Path(card.path or "").stat()
    # As if the file had been written within the resolution of the clock.
    (first.folder / "inputs.json").write_text(
        inputs.replace(inputs.split("[")[1].split("]")[0], f"{stat.st_size}, {stat.st_mtime_ns}")
    )
    assert prepare(card, home=home).vocabulary("city")["value"][0] == "Z"


def test_a_file_that_changes_while_it_is_read_is_refused(
    make_card: MakeCard, frame: pl.DataFrame, home: Path
) -> None:
    card = make_card(frame)
    make_old(card)

    def change(phase: str, _done: float) -> None:
        if phase == "encode":
            make_card(frame.with_columns(pl.col("city").replace("A", "Z")))
            os.utime(card.path or "", ns=(2, 2))

    with pytest.raises(DataError, match=r"changed while it was read: .*data.csv"):
        prepare(card, home=home, progress=change)
    assert is_empty(home)


def test_a_changed_card_is_prepared_again(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    prepare(make_card(frame), home=home)
    card = make_card(frame, domain_sets={"default": ["device"]})
    assert prepare(card, home=home).domain_set("default").features == ("device",)


def test_force_prepares_again(card: DatasetCard, home: Path) -> None:
    first = prepare(card, home=home)
    before = file_of(first)
    again = prepare(card, home=home, force=True)
    assert file_of(again) != before
    assert again.manifest.content_digest == first.manifest.content_digest
    assert not first.folder.exists()


def test_a_reader_always_finds_a_dataset_while_it_is_replaced(
    card: DatasetCard, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step of the replacement is observed: before it there is the old dataset, after it the new one."""
    first = prepare(card, home=home)
    seen = []

    def observed(name: str) -> None:
        step = getattr(publish, name)

        def observe(*arguments: object) -> None:
            for before_or_after in (lambda: None, lambda: step(*arguments)):
                before_or_after()
                opened = open_prepared("shop", home)
                opened.verify()
                seen.append(opened.manifest.files)

        monkeypatch.setattr(publish, name, observe)

    for name in ("add_folder", "write_manifest", "remove_folder"):
        observed(name)
    again = prepare(card, home=home, force=True)
    old, new = first.manifest.files, again.manifest.files
    assert seen == [old, old, old, new, new, new]


@pytest.mark.parametrize("step", ["add_folder", "write_manifest", "remove_folder"])
def test_a_crash_during_the_replacement_leaves_a_dataset_and_no_lasting_files(
    card: DatasetCard, home: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(card, home=home)
    with monkeypatch.context() as patch:
        patch.setattr(publish, step, Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(card, home=home, force=True)
    open_prepared("shop", home).verify()
    again = prepare(card, home=home, force=True)
    assert sorted(path.name for path in again.root.iterdir()) == [again.manifest.files, "manifest.json"]


def test_a_second_process_waits_and_finds_the_dataset_prepared(card: DatasetCard, home: Path) -> None:
    phases: list[str] = []
    make_old(card)
    first = prepare(card, home=home)
    first.root.rename(home / "hidden")
    with ThreadPoolExecutor(1) as pool, lock(dataset_folder("shop", home), lambda: None):
        second = pool.submit(prepare, card, home=home, progress=lambda phase, _: phases.append(phase))
        while not phases:
            time.sleep(0.01)
        (home / "hidden").rename(first.root)
    assert second.result().manifest == first.manifest
    assert phases == [WAITING]


@pytest.mark.parametrize(
    "file", ["shards/dev-00000.parquet", "vocabulary/city.parquet", "domains/city.parquet"]
)
def test_a_damaged_file_is_named(card: DatasetCard, home: Path, file: str) -> None:
    prepared = prepare(card, home=home)
    path = prepared.folder / file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=rf"damaged: .*{file}.*ctrbench prepare shop.toml --force"):
        prepare(card, home=home)
    prepare(card, home=home, force=True).verify()


def test_a_missing_shard_is_named(card: DatasetCard, home: Path) -> None:
    (prepare(card, home=home).folder / "shards/test-00000.parquet").unlink()
    with pytest.raises(DataError, match=r"missing: .*shards/test-00000.parquet"):
        prepare(card, home=home)


class FullDisk:
    """Replaces a function and raises the error of a full disk at the n-th call."""

    def __init__(self, function: Callable[..., object], fails_at: int) -> None:
        self.function, self.calls_left = function, fails_at

    def __call__(self, *arguments: object, **named: object) -> object:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.function(*arguments, **named)


@pytest.mark.parametrize(("owner", "name"), [(staging, "append_values"), (shards.pq, "write_table")])
@pytest.mark.parametrize("fails_at", [1, 4])
def test_a_full_disk_leaves_nothing(
    card: DatasetCard,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    fails_at: int,
) -> None:
    monkeypatch.setattr(owner, name, FullDisk(getattr(owner, name), fails_at))
    with pytest.raises(DataError, match=r"no space left on the disk: .*home.*CTRBENCH_HOME"):
        prepare(card, home=home)
    assert is_empty(home)


@pytest.mark.parametrize("phase", ["read", "encode", "write"])
def test_an_interrupt_leaves_the_previous_dataset(
    card: DatasetCard, make_card: MakeCard, frame: pl.DataFrame, home: Path, phase: str
) -> None:
    first = prepare(card, home=home)

    def interrupt(current: str, _done: float) -> None:
        if current == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(make_card(frame.head(11)), home=home, progress=interrupt)
    assert sorted(path.name for path in (home / "datasets").iterdir()) == [".shop.lock", "shop"]
    assert [path.name for path in first.root.iterdir() if path.is_dir()] == [first.manifest.files]
    first.verify()


def test_files_without_a_manifest_are_removed(card: DatasetCard, home: Path) -> None:
    """A folder in the place of the manifest cannot be replaced by one."""
    manifest = home / "datasets" / card.name / "manifest.json"
    manifest.mkdir(parents=True)
    with pytest.raises((OSError, DataError)):
        prepare(card, home=home)
    assert list(manifest.parent.iterdir()) == [manifest]
