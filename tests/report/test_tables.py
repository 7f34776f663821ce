from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.report.comparison import compare
from ctrbench.report.footnotes import FEW_SEEDS_NOTE, UNKNOWN_USERS_NOTE, VERDICT_NOTE
from ctrbench.report.summary import Summary, summarize
from ctrbench.report.table import Line, Mark, count, number, signed
from ctrbench.report.tables import bins_table, narrow_tables, overall_table, quality_and_cost
from ctrbench.runs.record import Parameters, RunRecord
from ctrbench.runs.store import RunStore


def summary_of(records: list[RunRecord]) -> Summary:
    (comparison,) = compare(records)
    return summarize(comparison)


def lines_of(records: list[RunRecord]) -> tuple[Line, ...]:
    return overall_table(summary_of(records)).lines


def test_methods_are_listed_under_their_backbone(
    toy: list[RunRecord], record: Callable[..., RunRecord]
) -> None:
    lines = lines_of([*toy, record("plain", backbone="dcnv2")])
    assert [(line.kind, line.label) for line in lines] == [
        ("backbone", "dnn"), ("method", "plain"), ("method", "adasparse"), ("backbone", "dcnv2"), ("method", "plain"),
    ]  # fmt: skip


def test_cells_show_mean_and_deviation(toy: list[RunRecord]) -> None:
    table = overall_table(summary_of(toy))
    cells = dict(zip(table.columns, table.lines[1].cells, strict=True))
    assert (cells["AUC ↑"].text, cells["AUC ↑"].std) == ("0.7100", "0.0141")
    expected = {
        "PCOC": "1.250",
        "|PCOC−1| ↓": "0.250",
        "embedding": "2.5 M",
        "dense": "999",
        "per domain": "0",
    }
    expected |= {"train s": "12", "GAUC rows": "87.5 %", "seeds": "2"}
    assert {name: cells[name].text for name in expected} == expected


def test_the_best_mean_is_marked(six: list[RunRecord]) -> None:
    assert [line.cells[1].mark for line in lines_of(six)[1:]] == [Mark.NONE, Mark.BEST]


def verdicts_and_ranks(records: list[RunRecord]) -> dict[str, tuple[str, str]]:
    table = overall_table(summary_of(records))
    columns = [table.columns.index(name) for name in ("verdict", "rank")]
    rows = {line.label: line.cells for line in table.lines if line.kind == "method"}
    return {label: (cells[columns[0]].text, cells[columns[1]].text) for label, cells in rows.items()}


def test_verdicts_and_ranks_of_a_clear_lead(clear_lead: list[RunRecord]) -> None:
    assert verdicts_and_ranks(clear_lead) == {"plain": ("–", "2"), "apg": ("better", "1")}


def test_verdicts_and_ranks_where_nothing_is_known(
    six_with_users: list[RunRecord], six: list[RunRecord]
) -> None:
    expected = {"plain": ("–", "1–2"), "adasparse": ("undecided", "1–2")}
    assert verdicts_and_ranks(six_with_users) == expected
    assert verdicts_and_ranks(six) == expected
    few = [run for run in six_with_users if run.key.seed < 6]
    assert verdicts_and_ranks(few) == {"plain": ("–", "–"), "adasparse": ("too few seeds", "–")}


def test_notes_say_what_is_known(six_with_users: list[RunRecord], six: list[RunRecord]) -> None:
    notes = overall_table(summary_of(six_with_users)).notes
    assert VERDICT_NOTE in notes
    assert UNKNOWN_USERS_NOTE not in notes
    (power,) = [note for note in notes if "is found in" in note]
    assert re.fullmatch(
        r"With 6 seeds and 100 test users, a gap of 0\.\d{4} AUC from plain is found in 80 % of tables\.",
        power,
    )
    assert UNKNOWN_USERS_NOTE in overall_table(summary_of(six)).notes
    assert not [note for note in overall_table(summary_of(six)).notes if "is found in" in note]


def test_five_seeds_are_neither_tested_nor_marked(six: list[RunRecord]) -> None:
    table = overall_table(summary_of([run for run in six if run.key.seed < 6]))
    assert [line.cells[1].mark for line in table.lines[1:]] == [Mark.NONE, Mark.NONE]
    assert table.notes[1:3] == ("±: standard deviation over 5 seeds.", FEW_SEEDS_NOTE)


def test_a_row_with_few_seeds_is_neither_best_nor_tested(
    six: list[RunRecord], record: Callable[..., RunRecord]
) -> None:
    lines = lines_of([*six, record("star", 1, 0.99)])
    marks = {line.label: line.cells[1].mark for line in lines[1:]}
    assert marks == {"plain": Mark.NONE, "star": Mark.NONE, "adasparse": Mark.BEST}


def test_a_collapsed_run_counts_as_failed(six: list[RunRecord], record: Callable[..., RunRecord]) -> None:
    dev = [{"auc": 0.7, "logloss": 0.5}] * 4 + [
        {"auc": 0.513, "logloss": 0.6},
        {"auc": 0.506, "logloss": 0.6},
    ]
    apg = [record("apg", seed, 0.9 if seed < 5 else 0.5, dev=dev[seed - 1]) for seed in range(1, 7)]
    table = overall_table(summary_of([*six, *apg]))
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
    lines = lines_of(
        [record(name, seed, a) for name, values in auc.items() for seed, a in enumerate(values * 2)]
    )
    assert [line.cells[1].mark for line in lines[1:]] == [Mark.NONE, Mark.BEST]


def test_one_seed_has_no_mark(record: Callable[..., RunRecord]) -> None:
    table = overall_table(summary_of([record("plain", auc=0.7), record("apg", auc=0.71)]))
    assert [line.cells[1].mark for line in table.lines[1:]] == [Mark.NONE, Mark.NONE]
    assert {"One seed: no deviation.", FEW_SEEDS_NOTE} <= set(table.notes)


def test_each_backbone_has_a_best_row(record: Callable[..., RunRecord]) -> None:
    auc = {"dnn": 0.6, "dcnv2": 0.9}
    lines = lines_of(
        [record("plain", seed, auc=auc[b], backbone=b) for b in auc for seed in range(1, MIN_SEEDS + 1)]
    )
    assert [line.cells[1].mark for line in lines if line.cells] == [Mark.BEST, Mark.BEST]


def test_an_unsupported_method_shows_the_reason(
    toy: list[RunRecord], record: Callable[..., RunRecord]
) -> None:
    reason = "star multiplies dense stages, and this tower has none"
    lines = lines_of([*toy, record("star", status="unsupported", error=reason)])
    (line,) = [line for line in lines if line.label == "star"]
    assert (line.cells, line.remark) == ((), f"{reason}.")


def test_variants_are_further_lines_without_a_mark(record: Callable[..., RunRecord]) -> None:
    lines = lines_of([record("maml", variants={"without adaptation": {"auc": 0.65, "logloss": 0.6}})])
    assert (lines[2].kind, lines[2].label) == ("variant", "without adaptation")
    assert [cell.text for cell in lines[2].cells[:4]] == ["0.60000", "0.6500", "–", "–"]
    assert lines[2].cells[1].mark is Mark.NONE


def test_the_oracle_is_the_last_line(toy: list[RunRecord], record: Callable[..., RunRecord]) -> None:
    lines = lines_of([record(oracle={"auc": 0.8123, "gauc": None, "logloss": 0.4, "auc_expected": 0.81})])
    assert lines[-1].kind == "oracle"
    assert [cell.text for cell in lines[-1].cells[:3]] == ["0.40000", "0.8123", "–"]
    assert lines_of(toy)[-1].kind == "method"


def test_the_learnable_ceiling_is_above_the_oracle(record: Callable[..., RunRecord]) -> None:
    lines = lines_of([record(oracle={"auc": 0.8, "ceiling_auc": 0.7654, "ceiling_logloss": 0.45})])
    assert [line.label for line in lines[-2:]] == ["learnable ceiling", "oracle"]
    assert [cell.text for cell in lines[-2].cells[:3]] == ["0.45000", "0.7654", "–"]


def test_records_of_several_machines_are_noted(toy: list[RunRecord]) -> None:
    other = toy[0].measured.model_copy(update={"machine": {"cores": 64}})
    table = overall_table(summary_of([toy[0].model_copy(update={"measured": other}), *toy[1:]]))
    assert "Records of 2 different machines: seconds are not comparable." in table.notes


def test_quality_and_cost_have_all_columns_together(toy: list[RunRecord]) -> None:
    table = overall_table(summary_of(toy))
    quality, cost = quality_and_cost(table)
    # Narrow formats show verdicts and ranks in the table of differences.
    assert (*quality.columns, "verdict", "rank", *cost.columns) == table.columns
    assert cost.lines[1].cells == table.lines[1].cells[-len(cost.columns) :]
    assert quality.columns[:3] == ("LogLoss ↓", "AUC ↑", "GAUC ↑")
    assert cost.columns[0] == "embedding"


def test_only_table_1_is_split_for_narrow_formats(toy: list[RunRecord]) -> None:
    summary = summary_of(toy)
    assert narrow_tables(overall_table(summary)) == quality_and_cost(overall_table(summary))
    assert narrow_tables(bins_table(summary, "auc")) == (bins_table(summary, "auc"),)


def test_bins_show_their_sizes_and_gains(toy: list[RunRecord]) -> None:
    table = bins_table(summary_of(toy), "auc")
    shown = {line.label: [cell.text for cell in line.cells] for line in table.lines if line.cells}
    assert shown["domains"] == ["1", "2", "3", "4", "5"]
    assert shown["share of training rows"] == ["20.0 %"] * 5
    assert shown["plain"] == ["0.7200", "0.7300", "0.7400", "0.7500", "0.7600"]
    assert shown["gain"] == ["+0.0400"] * 5


def test_an_unknown_pooled_auc_is_a_dash_with_a_reason(
    record: Callable[..., RunRecord], store: RunStore
) -> None:
    (comparison,) = compare([record()])
    table = bins_table(summarize(comparison, num_bins=3, store=store), "auc")
    assert {cell.text for line in table.lines if line.label == "plain" for cell in line.cells} == {"–"}
    assert any("needs predictions" in note for note in table.notes)


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


def test_the_note_names_other_indicators(record: Callable[..., RunRecord]) -> None:
    runs = [record("star", 1, indicator=by, parameters=OWN) for by in ("a", "all")]
    note = (
        "Per-domain parameters are indexed by a; in rows labeled “by all”, by all domain features together."
    )
    assert note in overall_table(summary_of([*runs, record("apg")])).footnotes


def test_the_indicator_is_named_if_there_are_per_domain_parameters(record: Callable[..., RunRecord]) -> None:
    own = Parameters(embedding=1, dense=1, per_domain=5)
    (with_own,), (without,) = compare([record("star", parameters=own)]), compare([record("plain")])
    note = "Per-domain parameters are indexed by a."
    assert note in overall_table(summarize(with_own)).footnotes
    assert note not in overall_table(summarize(without)).footnotes
    quality, cost = quality_and_cost(overall_table(summarize(with_own)))
    assert note in cost.footnotes
    assert note not in quality.footnotes
