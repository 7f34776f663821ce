from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctrbench.errors import StoreError
from ctrbench.runs.record import Choice, Code, Measured, RunKey, RunRecord
from ctrbench.runs.store import RunStore, read_record


def key(seed: int = 1) -> RunKey:
    return RunKey(
        dataset="tiny",
        data_digest="d",
        domain_set="default",
        domain_features=("a",),
        indicator="a",
        backbone=Choice(name="dnn"),
        method=Choice(name="plain"),
        train={"lr": 1e-3},
        seed=seed,
    )


def record(status: str, seed: int = 1, started: str = "now") -> RunRecord:
    one = key(seed)
    return RunRecord(
        run=one.run,
        digest=one.digest,
        key=one,
        status=status,  # type: ignore[arg-type]
        code=Code(version="0", method_sha256="m", backbone_sha256="b"),
        measured=Measured(started=started),
    )


def test_a_record_is_read_as_it_was_written(store: RunStore) -> None:
    store.write(record("failed"))
    assert store.find(key()) == record("failed")
    assert list(store.records()) == [record("failed")]


def test_a_finished_record_is_never_overwritten(store: RunStore) -> None:
    store.write(record("finished"))
    with pytest.raises(StoreError, match="never overwritten"):
        store.write(record("finished"))


def test_a_failed_record_is_replaced(store: RunStore) -> None:
    store.write(record("failed"))
    store.write(record("finished"))
    stored = store.find(key())
    assert stored is not None
    assert stored.status == "finished"


def test_measurements_are_not_reproducible_content(store: RunStore) -> None:
    assert record("finished", started="a").reproducible() == record("finished", started="b").reproducible()
    assert record("finished", seed=1).reproducible() != record("finished", seed=2).reproducible()


def test_the_digest_depends_on_every_part_of_the_key() -> None:
    other = key().model_copy(update={"train": {"lr": 2e-3}})
    assert len({key().digest, key(2).digest, other.digest}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"schema_version": 3}), "upgrade ctrbench"),
        ("{", "not a run record"),
        ("[]", "not a run record"),
        (json.dumps({"schema_version": 1, "colour": "red"}), "not a run record"),
    ],
)
def test_files_that_are_not_records_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "r.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=message):
        read_record(file)


def test_a_partially_written_record_is_ignored(store: RunStore) -> None:
    store.write(record("failed"))
    (store.results / "tiny" / "x.123.part").write_text("{", encoding="utf-8")
    assert len(list(store.records("tiny"))) == 1
