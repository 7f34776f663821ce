from __future__ import annotations

from collections.abc import Callable

from ctrbench.report.comparison import compare
from ctrbench.report.oracle import oracle_table
from ctrbench.report.summary import summarize
from ctrbench.report.table import Table
from ctrbench.runs.record import RunRecord

ORACLE = {"auc": 0.8, "logloss": 0.4, "expected_logloss": 0.41, "auc_expected": 0.81}
CEILING = {"ceiling_auc": 0.78, "ceiling_logloss": 0.43, "ceiling_expected_logloss": 0.42}


def table(record: Callable[..., RunRecord], oracle: dict[str, float]) -> Table | None:
    losses = {1: 0.5, 2: 0.52}
    runs = [
        record(
            seed=seed,
            oracle=oracle,
            test={"auc": 0.7 + seed / 100, "logloss": loss, "expected_logloss": 0.45},
        )
        for seed, loss in losses.items()
    ]
    (comparison,) = compare(runs)
    return oracle_table(summarize(comparison))


def texts(shown: Table | None) -> dict[str, list[str]]:
    assert shown is not None
    return {line.label: [cell.text for cell in line.cells] for line in shown.lines if line.cells}


def test_methods_have_a_distance_from_the_truth(record: Callable[..., RunRecord]) -> None:
    # AUC 0.71 and 0.72 against 0.81, LogLoss 0.50 and 0.52 against 0.40.
    shown = texts(table(record, ORACLE))
    assert shown["plain"] == ["−0.0950", "+0.11000", "0.45000"]
    assert shown["oracle"] == ["−0.0100", "0.00000", "0.41000"]
    assert "learnable ceiling" not in shown


def test_differences_have_a_deviation_over_seeds(record: Callable[..., RunRecord]) -> None:
    shown = table(record, ORACLE)
    assert shown is not None
    assert [cell.std for cell in shown.lines[1].cells] == ["0.0071", "0.01414", "0.00000"]


def test_the_learnable_ceiling_is_above_the_oracle(record: Callable[..., RunRecord]) -> None:
    shown = texts(table(record, ORACLE | CEILING))
    assert list(shown) == ["plain", "learnable ceiling", "oracle"]
    assert shown["learnable ceiling"] == ["−0.0300", "+0.03000", "0.42000"]


def test_without_a_known_truth_there_is_no_table(record: Callable[..., RunRecord]) -> None:
    assert table(record, {}) is None


def test_a_failed_method_shows_the_reason(record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([record(oracle=ORACLE), record("apg", status="failed", error="out of memory")])
    shown = oracle_table(summarize(comparison))
    assert shown is not None
    assert [(line.label, line.remark) for line in shown.lines if line.remark] == [("apg", "out of memory.")]
