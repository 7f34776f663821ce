from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

import pytest

from ctrbench.errors import StoreError
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore, read_record
from ctrbench.storage.checksummed import with_checksum
from ctrbench.storage.files import write_text

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def finished(record: MakeRecord) -> RunRecord:
    return record()


@pytest.fixture
def failed(record: MakeRecord) -> RunRecord:
    return record(status="failed", error="RuntimeError: stopped")


def with_start(record: RunRecord, started: str) -> RunRecord:
    return record.model_copy(update={"measured": record.measured.model_copy(update={"started": started})})


def test_a_record_is_read_as_it_was_written(store: RunStore, finished: RunRecord) -> None:
    store.write(finished)
    assert store.find(finished.key) == finished
    assert list(store.records()) == [finished]


def test_a_finished_record_is_never_overwritten(store: RunStore, finished: RunRecord) -> None:
    store.write(finished)
    with pytest.raises(StoreError, match="must not be overwritten"):
        store.write(with_start(finished, "later"))


def test_a_failed_record_is_replaced(store: RunStore, failed: RunRecord, finished: RunRecord) -> None:
    store.write(failed)
    store.write(finished)
    assert store.find(failed.key) == finished


def test_a_failed_attempt_does_not_replace_a_record_that_is_finished_meanwhile(
    store: RunStore, failed: RunRecord, finished: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both attempts find the record of a failed one; the attempt that fails again is about to write."""
    store.write(failed)
    is_writing, second = Event(), with_start(failed, "again")

    def write_slowly(file: Path, text: str, **options: bool) -> Path:
        if json.loads(text)["measured"]["started"] == "again":
            is_writing.set()
            sleep(0.2)
        return write_text(file, text, **options)

    monkeypatch.setattr("ctrbench.runs.store.write_text", write_slowly)
    with ThreadPoolExecutor(2) as pool:
        attempt = pool.submit(store.write, second)
        is_writing.wait(10)
        pool.submit(store.write, finished).result()
        attempt.result()
    assert store.find(failed.key) == finished


def test_measurements_are_not_reproducible_content(record: MakeRecord) -> None:
    assert with_start(record(), "a").reproducible() == with_start(record(), "b").reproducible()
    assert record(seed=1).reproducible() != record(seed=2).reproducible()


def test_the_digest_depends_on_every_part_of_the_key(record: MakeRecord) -> None:
    records = (record(), record(seed=2), record(train={"lr": 2e-3}), record(method="star"), record(data="e"))
    assert len({one.key.digest for one in records}) == len(records)


def test_a_partially_written_record_is_ignored(store: RunStore, finished: RunRecord) -> None:
    file = store.write(finished)
    assert isinstance(file, Path)
    (file.parent / "x.123.part").write_text("{", encoding="utf-8")
    assert list(store.records()) == [finished]


# --- records that do not prove themselves ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema_version": 5}', "upgrade ctrbench"),
        (b"{", "not a run record"),
        (b"[]", "not a run record"),
        (b"\xff", "not a run record"),
        (b"[" * 100_000, "not a run record"),
        (b"1" * 10_000, "not a run record"),
        (b'{"schema_version": 1, "color": "red"}', "not a run record"),
        (b'{"schema_version": 0}', "schema_version must be a whole number from 1, not 0"),
        (b'{"schema_version": "1"}', "schema_version must be a whole number from 1, not '1'"),
        (b'{"schema_version": true}', "schema_version must be a whole number from 1, not True"),
    ],
)
def test_files_that_are_not_records_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "r.json"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=message):
        read_record(file)


def test_a_folder_and_a_broken_link_are_refused(store: RunStore, finished: RunRecord) -> None:
    file = store.write(finished)
    assert isinstance(file, Path)
    (file.parent / "folder.json").mkdir()
    with pytest.raises(StoreError, match=r"must be a readable file: .*folder.json: Is a directory"):
        list(store.records())
    (file.parent / "folder.json").rmdir()
    (file.parent / "link.json").symlink_to("nowhere.json")
    with pytest.raises(StoreError, match=r"link.json: broken link"):
        list(store.records())


def written(store: RunStore, record: RunRecord) -> tuple[Path, dict[str, Any]]:
    """Write a record and return its file and content."""
    file = store.write(record)
    assert isinstance(file, Path)
    return file, json.loads(file.read_text(encoding="utf-8"))


def edit(content: dict[str, Any], path: str, value: object) -> None:
    """Set a value in nested dictionaries and lists."""
    *parents, last = path.split(".")
    part: Any = content
    for key in parents:
        part = part[int(key)] if isinstance(part, list) else part[key]
    part[last] = value


EDITS: list[tuple[str, object, str]] = [
    ("result.test.auc", 5.0, r"test.auc is not a possible value of that metric: 5.0"),
    ("result.test.auc", -0.1, r"test.auc is not a possible value"),
    ("result.test.logloss", -1.0, r"test.logloss is not a possible value"),
    ("result.dev.auc", 0.9, r"dev must equal the dev metrics of the best evaluation"),
    ("result.bins.0.metrics.auc", 1.5, r"bins.1.auc is not a possible value"),
    ("result.domains.metrics.auc", [2.0, None, None, None], r"domains.0.auc is not a possible value"),
    ("result.domains.metrics.auc", [], r"domains.auc must have 4 values, one per domain, not 0"),
    ("result.domains.rows", [1], r"domains.rows must have 4 values"),
    ("result.domains.domain", [1, 1, 2, 3], r"domains.domain must not repeat a domain"),
    ("result.domains.positives", [10**6, 0, 0, 0], r"0 ≤ positives ≤ rows must hold"),
    ("result.best_evaluation", 99, r"best_evaluation must be one of the 1 evaluations of history, not 99"),
    ("result.best_evaluation", 0, r"best_evaluation must be one of"),
    ("result.history", [], r"best_evaluation must be one of the 0 evaluations"),
    ("result.steps", -1, r"steps must be at least 0"),
    ("result.variants", {"other": {"auc": 7.0}}, r"variants.other.auc is not a possible value"),
    ("result", None, r"only a finished run must have a result, but the run is finished and has no result"),
    ("status", "failed", r"only a finished run must have a result, but the run is failed and has a result"),
    ("key.seed", 2, r"digest must be that of the key"),
    ("key.method.name", "star", r"digest must be that of the key"),
    ("key.dataset", "other", r"digest must be that of the key"),
    ("digest", "0" * 64, r"digest must be that of the key"),
    ("run", "star-dnn-s1-000000000000", r"run must be 'plain-dnn-s1"),
]


@pytest.mark.parametrize(("path", "value", "message"), EDITS)
def test_impossible_content_is_refused_with_a_right_sha256(
    store: RunStore, finished: RunRecord, path: str, value: object, message: str
) -> None:
    file, content = written(store, finished)
    del content["sha256"]
    edit(content, path, value)
    file.write_text(json.dumps(with_checksum(content)), encoding="utf-8")
    with pytest.raises(StoreError, match=message):
        read_record(file)


@pytest.mark.parametrize(
    ("path", "value"), [*((path, value) for path, value, _ in EDITS), ("result.test.auc", 0.999)]
)
def test_changed_content_is_refused_by_its_sha256(
    store: RunStore, finished: RunRecord, path: str, value: object
) -> None:
    file, content = written(store, finished)
    edit(content, path, value)
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(StoreError, match=r"does not match its sha256.*remove the file or restore it"):
        read_record(file)


def test_a_failed_run_needs_an_error(store: RunStore, record: MakeRecord) -> None:
    with pytest.raises(StoreError, match="a failed run must have an error"):
        read_record(store.write(record(status="failed")))


# --- names and copies ---


def test_a_record_with_the_name_of_another_run_is_refused(store: RunStore, record: MakeRecord) -> None:
    other, own = record("star"), record("plain")
    file, _ = written(store, other)
    target = store.record_file(own.key)
    assert isinstance(target, Path)
    file.rename(target)
    for read in (lambda: store.find(own.key), lambda: list(store.records())):
        with pytest.raises(
            StoreError, match=rf"another run than its file name says: .*rename .*{other.run}.json"
        ):
            read()


@pytest.mark.parametrize("name", ["copy.json", "{run} (1).json", "A.json", "zz.json"])
def test_a_copy_is_one_record(store: RunStore, finished: RunRecord, name: str) -> None:
    file, _ = written(store, finished)
    (file.parent / name.format(run=finished.run)).write_bytes(file.read_bytes())
    assert list(store.records()) == [finished]


def test_the_record_with_the_name_of_its_run_counts(store: RunStore, finished: RunRecord) -> None:
    file, _ = written(store, with_start(finished, "elsewhere"))
    file.rename(file.parent / "a copy.json")
    store.write(finished)
    assert list(store.records()) == [finished]


def test_a_finished_record_counts_before_a_failed_one(
    store: RunStore, failed: RunRecord, finished: RunRecord
) -> None:
    file, _ = written(store, finished)
    file.rename(file.parent / "zz.json")
    store.write(failed)
    assert list(store.records()) == [finished]


def test_a_renamed_record_is_read_and_its_run_is_repeated(store: RunStore, finished: RunRecord) -> None:
    file, _ = written(store, finished)
    file.rename(file.parent / "renamed.json")
    assert list(store.records()) == [finished]
    assert store.find(finished.key) is None


def test_checkpoints_of_finished_runs_are_removed(store: RunStore, record: Callable[..., RunRecord]) -> None:
    finished, unfinished = record(seed=1).key, record(seed=2).key
    for key in (finished, unfinished):
        store.folder(key).mkdir(parents=True)
        store.checkpoint_file(key).touch()
    store.remove_checkpoints([finished])
    assert not store.checkpoint_file(finished).exists()
    assert store.checkpoint_file(unfinished).exists()
