from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrbench.names import Metric
from ctrbench.report.bins import bin_table
from ctrbench.report.commands import run_command
from ctrbench.report.comparison import compare, gain
from ctrbench.report.tables import (
    Line,
    Mark,
    bins_table,
    count,
    number,
    overall_table,
    quality_and_cost,
    signed,
)
from ctrbench.runs.record import Parameters, RunRecord
from ctrbench.runs.store import RunStore


def lines_of(records: list[RunRecord]) -> tuple[Line, ...]:
    (comparison,) = compare(records)
    return overall_table(comparison).lines


def test_methods_stand_under_their_backbone(toy: list[RunRecord], record: Callable[..., RunRecord]) -> None:
    lines = lines_of([*toy, record("plain", backbone="dcnv2")])
    assert [(line.kind, line.label) for line in lines] == [
        ("backbone", "dnn"), ("method", "plain"), ("method", "adasparse"), ("backbone", "dcnv2"), ("method", "plain"),
    ]  # fmt: skip


def test_cells_show_mean_and_deviation(toy: list[RunRecord]) -> None:
    cells = lines_of(toy)[1].cells
    assert (cells[1].text, cells[1].spread) == ("0.7100", "0.0141")
    assert [cell.text for cell in cells[3:]] == ["1.250", "0.250", "2.5 M", "999", "0", "12", "87.5 %", "2"]


def test_the_best_and_a_difference_that_is_not_significant_are_marked(six: list[RunRecord]) -> None:
    assert [line.cells[1].mark for line in lines_of(six)[1:]] == [Mark.NOT_SIGNIFICANT, Mark.BEST]


def test_five_seeds_are_not_tested(six: list[RunRecord]) -> None:
    (comparison,) = compare([one for one in six if one.key.seed < 6])
    table = overall_table(comparison)
    assert [line.cells[1].mark for line in table.lines[1:]] == [Mark.NONE, Mark.BEST]
    assert table.notes[1] == "±: standard deviation over 5 seeds. Too few seeds for a test (fewer than 6)."


def test_a_row_with_few_seeds_is_neither_best_nor_tested(
    six: list[RunRecord], record: Callable[..., RunRecord]
) -> None:
    lines = lines_of([*six, record("star", 1, 0.99)])
    marks = {line.label: line.cells[1].mark for line in lines[1:]}
    assert marks == {"plain": Mark.NOT_SIGNIFICANT, "star": Mark.NONE, "adasparse": Mark.BEST}


def test_a_collapsed_run_counts_as_failed(six: list[RunRecord], record: Callable[..., RunRecord]) -> None:
    dev = [{"auc": 0.7, "logloss": 0.5}] * 4 + [
        {"auc": 0.513, "logloss": 0.6},
        {"auc": 0.506, "logloss": 0.6},
    ]
    apg = [record("apg", seed, 0.9 if seed < 5 else 0.5, dev=dev[seed - 1]) for seed in range(1, 7)]
    (comparison,) = compare([*six, *apg])
    table = overall_table(comparison)
    (line,) = [line for line in table.lines if line.label == "apg"]
    # The mean of all six, 0.767, is the highest.
    assert (line.cells[1].text, line.cells[1].mark, line.cells[-1].text) == (
        "0.7667",
        Mark.NONE,
        "2 of 6 failed",
    )
    assert (
        "Failed: apg on dnn, seed 5, 6: training collapsed (dev AUC 0.513, 0.506); AUC of the others 0.9000 ± 0.0000."
        in table.notes
    )


def test_a_clear_loser_has_no_mark(record: Callable[..., RunRecord]) -> None:
    auc = {"plain": (0.70, 0.71, 0.69), "apg": (0.75, 0.7601, 0.74)}
    lines = lines_of([record(name, seed, a) for name, found in auc.items() for seed, a in enumerate(found)])
    assert [line.cells[1].mark for line in lines[1:]] == [Mark.NONE, Mark.BEST]


def test_one_seed_is_never_called_a_tie(record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([record("plain", auc=0.7), record("apg", auc=0.71)])
    table = overall_table(comparison)
    assert [line.cells[1].mark for line in table.lines[1:]] == [Mark.NONE, Mark.BEST]
    assert "One seed: no deviation. Too few seeds for a test (fewer than 6)." in table.notes


def test_the_best_is_found_within_each_backbone(record: Callable[..., RunRecord]) -> None:
    lines = lines_of([record("plain", auc=0.6), record("plain", auc=0.9, backbone="dcnv2")])
    assert [line.cells[1].mark for line in lines if line.cells] == [Mark.BEST, Mark.BEST]


def test_a_method_that_does_not_fit_shows_why(toy: list[RunRecord], record: Callable[..., RunRecord]) -> None:
    reason = "star multiplies dense stages, and this tower has none"
    lines = lines_of([*toy, record("star", status="unsupported", error=reason)])
    (line,) = [line for line in lines if line.label == "star"]
    assert (line.cells, line.remark) == ((), f"{reason}.")


def test_variants_are_further_lines_without_a_mark(record: Callable[..., RunRecord]) -> None:
    lines = lines_of([record("maml", variants={"without adaptation": {"auc": 0.65, "logloss": 0.6}})])
    assert (lines[2].kind, lines[2].label) == ("variant", "without adaptation")
    assert [cell.text for cell in lines[2].cells[:4]] == ["0.60000", "0.6500", "–", "–"]
    assert lines[2].cells[1].mark is Mark.NONE


def test_the_oracle_has_the_last_line(toy: list[RunRecord], record: Callable[..., RunRecord]) -> None:
    lines = lines_of([record(oracle={"auc": 0.8123, "gauc": None, "logloss": 0.4, "auc_expected": 0.81})])
    assert lines[-1].kind == "oracle"
    assert [cell.text for cell in lines[-1].cells[:3]] == ["0.40000", "0.8123", "–"]
    assert lines_of(toy)[-1].kind == "method"


def test_the_learnable_ceiling_stands_above_the_oracle(record: Callable[..., RunRecord]) -> None:
    lines = lines_of([record(oracle={"auc": 0.8, "ceiling_auc": 0.7654, "ceiling_logloss": 0.45})])
    assert [line.label for line in lines[-2:]] == ["learnable ceiling", "oracle"]
    assert [cell.text for cell in lines[-2].cells[:3]] == ["0.45000", "0.7654", "–"]


def test_machines_are_told_apart(toy: list[RunRecord]) -> None:
    other = toy[0].measured.model_copy(update={"machine": {"cores": 64}})
    (comparison,) = compare([toy[0].model_copy(update={"measured": other}), *toy[1:]])
    assert "Made on 2 different machines: seconds are not comparable." in overall_table(comparison).notes


def test_quality_and_cost_have_all_columns_between_them(toy: list[RunRecord]) -> None:
    (comparison,) = compare(toy)
    table = overall_table(comparison)
    quality, cost = quality_and_cost(table)
    assert quality.columns + cost.columns == table.columns
    assert cost.lines[1].cells == table.lines[1].cells[5:]


def test_bins_show_what_they_hold_and_gains(toy: list[RunRecord], store: RunStore) -> None:
    (comparison,) = compare(toy)
    table = bins_table(bin_table(comparison, num_bins=5, store=store), "auc")
    shown = {line.label: [cell.text for cell in line.cells] for line in table.lines if line.cells}
    assert shown["domains"] == ["1", "2", "3", "4", "5"]
    assert shown["share of training rows"] == ["20.0 %"] * 5
    assert shown["plain"] == ["0.7200", "0.7300", "0.7400", "0.7500", "0.7600"]
    assert shown["gain"] == ["+0.0400"] * 5


def test_an_unknown_pooled_auc_is_a_dash_with_a_reason(
    record: Callable[..., RunRecord], store: RunStore
) -> None:
    (comparison,) = compare([record()])
    table = bins_table(bin_table(comparison, num_bins=3, store=store), "auc")
    assert {cell.text for line in table.lines if line.label == "plain" for cell in line.cells} == {"–"}
    assert any("needs the predictions" in note for note in table.notes)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1234, "1.23 k"), (999_600, "1 M"), (58_337, "58.3 k")]
)
def test_counts_are_short(value: int, text: str) -> None:
    assert count(value) == text


def test_numbers_have_true_minus_signs_and_dashes() -> None:
    assert number(-0.5, 2) == "−0.50"
    assert number(None, 2) == "–"
    assert [signed(value, 2) for value in (0.5, -0.5, -0.001)] == ["+0.50", "−0.50", "0.00"]


OWN = Parameters(embedding=1, dense=1, per_domain=5)


def test_a_run_by_another_indicator_is_an_extra_row(record: Callable[..., RunRecord]) -> None:
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
    # More rows go by a, though more runs go by all; plain is one row, whatever it was told.
    assert comparison.indicator == "a"
    plain, extra = comparison.plain("dnn"), comparison.rows[2]
    assert plain is not None
    assert [one.key.indicator for one in plain.finished] == ["a", "all"]
    assert gain(extra, plain, Metric.AUC) == {1: pytest.approx(0.05), 2: pytest.approx(0.04)}
    assert "--indicator all --methods star" in run_command(extra)
    note = "What single domains own goes by a; in rows “by all” by all domain features together."
    assert note in overall_table(comparison).definitions


def test_what_does_not_heed_the_indicator_is_one_row(record: Callable[..., RunRecord]) -> None:
    runs = [
        record("star", 1),
        *(record("adasparse", 1, indicator=by, predictions_sha256="same") for by in ("a", "all")),
        record("adasparse", 2, indicator="all"),
        *(record("apg", 1, indicator=by) for by in ("a", "all")),
    ]
    (comparison,) = compare(runs)
    assert [row.method for row in comparison.rows] == ["star", "apg", "apg, by all", "adasparse"]
    assert [one.key.indicator for one in comparison.rows[-1].finished] == ["a", "all"]


@pytest.mark.parametrize("differs", ["a", "b", "all"])
def test_where_one_indicator_makes_a_difference_all_are_rows(
    record: Callable[..., RunRecord], differs: str
) -> None:
    runs = [
        record("star", 1, indicator=by, predictions_sha256="other" if by == differs else "same")
        for by in ("a", "b", "all")
    ]
    (comparison,) = compare(runs)
    assert len(comparison.rows) == 3


def test_runs_of_other_seeds_or_without_result_do_not_prove_a_method_indifferent(
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


def test_of_runs_of_plain_one_that_ended_is_kept(record: Callable[..., RunRecord]) -> None:
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
    assert {one.key.seed for one in comparison.rows[0].finished} == {1, 2}
    assert comparison.rows[0].finished[-1].key.indicator == "a"


def test_of_two_indicators_of_as_many_rows_a_feature_goes_first(record: Callable[..., RunRecord]) -> None:
    # Plain has no say.
    runs = [record("star", indicator=by) for by in ("all", "z")]
    plain = [record("plain", indicator="all")]
    (comparison,) = compare([*runs, *plain])
    assert comparison.indicator == "z"


def test_plain_with_normalisation_is_a_row_of_its_own(record: Callable[..., RunRecord]) -> None:
    normed = {"norm": "pn", "aux": "all"}
    runs = [
        record("plain"),
        record("plain", settings=normed, parameters=OWN),
        record("plain", settings=normed, parameters=OWN, indicator="all"),
    ]
    (comparison,) = compare(runs)
    own = "plain[aux=all,norm=pn]"
    assert [row.method for row in comparison.rows] == ["plain", own, f"{own}, by all"]


def test_failed_runs_do_not_choose_the_indicator(record: Callable[..., RunRecord]) -> None:
    failed = [record("star", seed, indicator="all", status="failed", error="no") for seed in (1, 2, 3)]
    (comparison,) = compare([record("plain"), record("apg"), *failed])
    assert [row.method for row in comparison.rows] == ["plain", "star, by all", "apg"]


def test_the_indicator_is_named_where_domains_own_something(record: Callable[..., RunRecord]) -> None:
    own = Parameters(embedding=1, dense=1, per_domain=5)
    (with_own,), (without,) = compare([record("star", parameters=own)]), compare([record("plain")])
    note = "What single domains own goes by a."
    assert note in overall_table(with_own).definitions
    assert note not in overall_table(without).definitions
    quality, cost = quality_and_cost(overall_table(with_own))
    assert note in cost.definitions
    assert note not in quality.definitions
