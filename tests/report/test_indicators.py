from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrbench.eval.metrics.auc import Auc
from ctrbench.report.comparison import compare, gain
from ctrbench.runs.record import Parameters, RunRecord

OWN = Parameters(embedding=1, dense=1, per_domain=5)


def test_runs_with_another_indicator_are_another_row(record: Callable[..., RunRecord]) -> None:
    runs = [
        record("plain", 1, 0.70),
        record("plain", 2, 0.71, indicator="all"),
        record("plain", 1, 0.70, indicator="all"),
        record("apg", 1, 0.71),
        *(record("star", seed, 0.72, parameters=OWN) for seed in (1, 2)),
        *(record("star", seed, 0.75, indicator="all", parameters=OWN) for seed in (1, 2, 3)),
    ]
    (comparison,) = compare(runs)
    assert [row.method for row in comparison.rows] == ["plain", "star", "star, by all", "apg"]
    # More rows have indicator a, though more runs have all; plain is one row for any indicator.
    assert comparison.indicator == "a"
    plain, extra = comparison.plain("dnn"), comparison.rows[2]
    assert plain is not None
    assert [run.key.indicator for run in plain.finished] == ["a", "all"]
    assert gain(extra, plain, Auc.name) == {1: pytest.approx(0.05), 2: pytest.approx(0.04)}


def test_a_method_that_ignores_the_indicator_is_one_row(record: Callable[..., RunRecord]) -> None:
    runs = [
        record("star", 1),
        *(record("adasparse", 1, indicator=by, predictions_sha256="same") for by in ("a", "all")),
        record("adasparse", 2, indicator="all"),
        *(record("apg", 1, indicator=by) for by in ("a", "all")),
    ]
    (comparison,) = compare(runs)
    assert [row.method for row in comparison.rows] == ["star", "apg", "apg, by all", "adasparse"]
    assert [run.key.indicator for run in comparison.rows[-1].finished] == ["a", "all"]


@pytest.mark.parametrize("differs", ["a", "b", "all"])
def test_a_single_different_prediction_gives_one_row_per_indicator(
    record: Callable[..., RunRecord], differs: str
) -> None:
    runs = [
        record("star", 1, indicator=by, predictions_sha256="other" if by == differs else "same")
        for by in ("a", "b", "all")
    ]
    (comparison,) = compare(runs)
    assert len(comparison.rows) == 3


def test_other_seeds_and_failed_runs_are_no_evidence_that_the_indicator_is_ignored(
    record: Callable[..., RunRecord],
) -> None:
    runs = [
        record("plain"),
        *(
            record("star", seed, indicator=by, predictions_sha256="same")
            for seed, by in ((1, "a"), (2, "all"))
        ),
        record("apg"),
        record("apg", indicator="all", status="failed", error="no"),
    ]
    (comparison,) = compare(runs)
    names = [row.method for row in comparison.rows]
    assert names == ["plain", "star", "star, by all", "apg", "apg, by all"]


def test_a_finished_run_of_plain_is_preferred(record: Callable[..., RunRecord]) -> None:
    runs = [
        record("star"),
        record("plain", status="failed", error="no"),
        record("plain", indicator="all"),
        record("plain", indicator="b"),
        record("plain", 2, indicator="b"),
        record("plain", 2),
    ]
    (comparison,) = compare(runs)
    assert [row.method for row in comparison.rows] == ["plain", "star"]
    assert {run.key.seed for run in comparison.rows[0].finished} == {1, 2}
    assert comparison.rows[0].finished[-1].key.indicator == "a"


def test_a_feature_is_preferred_to_all_features(record: Callable[..., RunRecord]) -> None:
    # Plain has no say.
    runs = [record("star", indicator=by) for by in ("all", "z")]
    plain = [record("plain", indicator="all")]
    (comparison,) = compare([*runs, *plain])
    assert comparison.indicator == "z"


def test_plain_with_normalization_is_another_row(record: Callable[..., RunRecord]) -> None:
    normed = {"norm": "pn", "aux": "all"}
    runs = [
        record("plain"),
        record("plain", settings=normed, parameters=OWN),
        record("plain", settings=normed, parameters=OWN, indicator="all"),
    ]
    (comparison,) = compare(runs)
    own = "plain[aux=all,norm=pn]"
    assert [row.method for row in comparison.rows] == ["plain", own, f"{own}, by all"]


def test_failed_runs_do_not_determine_the_main_indicator(record: Callable[..., RunRecord]) -> None:
    failed = [record("star", seed, indicator="all", status="failed", error="no") for seed in (1, 2, 3)]
    (comparison,) = compare([record("plain"), record("apg"), *failed])
    assert [row.method for row in comparison.rows] == ["plain", "star, by all", "apg"]
