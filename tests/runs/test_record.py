"""Records of schema 1, which are published under results/, are read in the present schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctrbench.runs.record import RunRecord, upgraded
from ctrbench.runs.store import read_record

RESULTS = Path(__file__).parents[2] / "results"
PUBLISHED = [
    sorted(folder.glob("*.json"))[0] for folder in sorted(RESULTS.iterdir()) if any(folder.glob("*.json"))
]


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.name)
def test_metrics_of_a_published_record_are_read_by_name(file: Path) -> None:
    content, record = json.loads(file.read_text(encoding="utf-8")), read_record(file)
    assert (content["schema_version"], record.schema_version) == (1, 4)
    assert record.result is not None
    result, domains = content["result"], record.result.domains
    assert record.result.test == result["test"]
    for name in ("domain", "rows_train", "rows", "positives"):
        assert getattr(domains, name) == tuple(result["domains"][name])
    assert domains.metrics == {name: tuple(result["domains"][name]) for name in ("auc", "logloss", "pcoc")}
    for part, stored in zip(record.result.bins, result["bins"], strict=True):
        assert part.metrics == {name: stored[name] for name in ("auc", "gauc", "gauc_coverage")}
        assert (part.bin, part.rows) == (stored["bin"], stored["rows"])


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.parent.name)
def test_a_record_equals_its_repetition_in_the_other_schema(file: Path) -> None:
    old = read_record(file)
    new = RunRecord.model_validate_json(old.model_dump_json())
    assert new == old
    assert new.reproducible() == old.reproducible()
    assert new.key.digest == new.digest == old.digest


def test_content_of_the_current_schema_is_not_changed() -> None:
    content = {"schema_version": 4, "result": {"domains": {"auc": []}}}
    assert upgraded(content) is content


def test_a_failed_record_of_schema_1_has_no_result() -> None:
    assert upgraded({"schema_version": 1, "error": "x"}) == {
        "schema_version": 4,
        "error": "x",
        "result": None,
    }


def test_a_record_of_schema_2_differs_in_the_version_only() -> None:
    content = {"schema_version": 2, "result": {"domains": {"metrics": {"auc": []}}}}
    assert upgraded(content) == content | {"schema_version": 4}


def test_the_best_epoch_of_schema_3_is_the_best_evaluation() -> None:
    content = {"schema_version": 3, "result": {"best_epoch": 2, "history": []}}
    assert upgraded(content) == {"schema_version": 4, "result": {"best_evaluation": 2, "history": []}}
