from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrbench.report.comparison import compare
from ctrbench.report.difference_table import difference_table, differences_by_metric
from ctrbench.report.differences import row_samples
from ctrbench.report.summary import Summary, summarize
from ctrbench.runs.record import RunRecord

WithUsers = Callable[[list[RunRecord]], list[RunRecord]]
SEEDS = range(6)


def summary_of(records: list[RunRecord]) -> Summary:
    (comparison,) = compare(records)
    return summarize(comparison)


def test_the_table_of_differences_has_all_rows(clear_lead: list[RunRecord]) -> None:
    table = difference_table(summary_of(clear_lead))
    shown = {
        line.label: dict(zip(table.columns, (c.text for c in line.cells), strict=False))
        for line in table.lines
    }
    assert set(shown["plain"].values()) == {"–", "2"}
    assert shown["apg"]["AUC − plain"].startswith("+0.0500 (+0.04")
    assert (shown["apg"]["verdict"], shown["apg"]["verdict in GAUC"], shown["apg"]["rank"]) == (
        "better",
        "better",
        "1",
    )
    seeds, users = (float(text) for text in shown["apg"]["SE seeds / users"].split(" / "))
    assert (seeds, users) == (0.0, pytest.approx(0.0001 * 100**0.5 * (2 / 6) ** 0.5, abs=2e-4))
    parts = differences_by_metric(table)
    assert sum((part.columns for part in parts), ()) == table.columns
    assert [bool(part.footnotes) for part in parts] == [True, False]


def test_without_plain_there_is_no_table_of_differences(record: Callable[..., RunRecord]) -> None:
    assert difference_table(summary_of([record("apg")])) is None


def test_plain_with_failed_runs_leaves_everything_undecided(
    clear_lead: list[RunRecord], record: Callable[..., RunRecord]
) -> None:
    broken = record("plain", 6, status="failed", error="no memory")
    rows = summary_of([*clear_lead, broken]).rows
    assert rows[1].score("auc").gain.difference.verdict == "undecided"
    assert [(row.rank.first, row.rank.last) for row in rows] == [(2, 2), (1, 1)]


def test_runs_with_other_test_rows_count_as_unknown(clear_lead: list[RunRecord]) -> None:
    last = clear_lead[-1]
    influence = last.result.influence.model_copy(update={"digest": "other"})
    changed = last.model_copy(update={"result": last.result.model_copy(update={"influence": influence})})
    (comparison,) = compare([*clear_lead[:-1], changed])
    samples = row_samples(comparison.rows, "auc")
    assert [sample.is_complete for sample in samples] == [True, False]


def test_lower_logloss_is_better(record: Callable[..., RunRecord], with_users: WithUsers) -> None:
    def with_loss(name: str, seed: int, loss: float) -> RunRecord:
        run = record(name, seed)
        test = {**run.result.test, "logloss": loss}
        return run.model_copy(update={"result": run.result.model_copy(update={"test": test})})

    runs = [with_loss(n, s, v + s / 1e4) for n, v in (("plain", 0.5), ("apg", 0.4)) for s in SEEDS]
    _, apg = summary_of(with_users(runs)).rows
    assert apg.score("logloss").gain.difference.verdict == "better"


def test_metrics_without_influences_have_gains_but_no_verdicts(clear_lead: list[RunRecord]) -> None:
    gain = summary_of(clear_lead).rows[1].score("pcoc_error").gain
    assert gain.estimate.mean == 0.0
    assert gain.difference is None


def test_power_is_that_of_each_backbone(clear_lead: list[RunRecord]) -> None:
    powers = summary_of(clear_lead).powers
    assert (powers["dnn"].num_seeds, powers["dnn"].num_clusters, powers["dnn"].clusters) == (6, 100, "users")
    assert 0 < powers["dnn"].gap < 0.01
