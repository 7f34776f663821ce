"""A metric from another file is computed from stored predictions and reported like a built-in one."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ctrbench.eval.metrics.registry import load_metrics
from ctrbench.report.additional_metrics import with_additional_metrics
from ctrbench.report.write import report
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore

HITS = '''"""Hit rate: share of rows on the right side of logit 0."""

from ctrbench.eval.metrics.base import Floats, Groups, RowMetric, ScoredRows, ratio


def hit(rows: ScoredRows) -> Floats:
    return 1.0 * ((rows.score > 0) == rows.is_positive)


class HitRate(RowMetric):
    name = "hit_rate"
    title = "Hit rate"
    digits = 2
    terms = (hit,)

    def values(self, groups: Groups) -> Floats:
        return ratio(groups.sum(hit), groups.rows)
'''
ROWS = {"domain": [1, 1, 1, 2, 3, 3], "label": [1, 0, 1, 0, 1, 0], "score": [2.0, 1.0, 0.0, -1.0, 3.0, 1.0]}


@pytest.fixture
def hits_file(tmp_path: Path) -> str:
    (tmp_path / "hits.py").write_text(HITS, encoding="utf-8")
    return str(tmp_path / "hits.py")


def with_predictions(record: RunRecord, store: RunStore) -> RunRecord:
    """Return the record with the digest of predictions that are written to the store."""
    assert record.result is not None
    file = store.predictions_file(record.key)
    file.parent.mkdir(parents=True)
    pl.DataFrame(ROWS).write_parquet(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return record.model_copy(
        update={"result": record.result.model_copy(update={"predictions_sha256": digest})}
    )


def test_the_metric_is_added_overall_per_domain_and_per_bin(
    record: Callable[..., RunRecord], store: RunStore, hits_file: str
) -> None:
    made = with_predictions(record(), store)
    result = with_additional_metrics(made, load_metrics([hits_file]), store).result
    assert result is not None
    assert made.result is not None
    # Right: 2.0, -1.0 and 3.0 of six rows; one of three in domain 1, one of one in 2, one of two in 3.
    assert result.test == {**made.result.test, "hit_rate": 0.5}
    assert result.domains.metrics["hit_rate"] == (None, pytest.approx(1 / 3), 1.0, 0.5)
    assert result.domains.metrics["auc"] == made.result.domains.metrics["auc"]
    assert [part.metrics["gauc"] for part in result.bins] == [0.7] * 5
    assert {part.metrics["hit_rate"] for part in result.bins} >= {None, 1.0, 0.5}


def test_a_record_without_matching_predictions_is_not_changed(
    record: Callable[..., RunRecord], store: RunStore, hits_file: str
) -> None:
    with_predictions(record(), store)
    # The digest of the record is not that of the stored file.
    assert with_additional_metrics(record(), load_metrics([hits_file]), store) == record()


def test_a_report_shows_the_metric_in_tables_charts_and_csv(
    record: Callable[..., RunRecord], store: RunStore, hits_file: str, tmp_path: Path
) -> None:
    for made in (record("plain"), record("apg", auc=0.8)):
        store.write(with_predictions(made, store))
    store.write(record("star"))
    out = tmp_path / "out"
    files = report(store, dataset="toy", out=out, metrics=[hits_file])
    table = (out / "overall.md").read_text(encoding="utf-8")
    assert "| Hit rate ↑ |" in table
    assert "Hit rate is not known for 1 of 3 runs" in table
    assert "Hit rate by size of domain" in (out / "bins.md").read_text(encoding="utf-8")
    assert {"hit_rate.svg", "gain-hit_rate.svg"} <= {file.name for file in files.pictures}
    with (out / "overall.csv").open(encoding="utf-8") as stream:
        lines = [line for line in csv.DictReader(stream) if line["metric"] == "hit_rate"]
    assert {line["method"]: float(line["mean"]) for line in lines} == {"plain": 0.5, "apg": 0.5}
    with (out / "bins.csv").open(encoding="utf-8") as stream:
        assert "hit_rate" in {line["metric"] for line in csv.DictReader(stream)}
