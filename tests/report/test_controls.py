"""Controls in reports: rows of their own, and the gains over them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ctrbench.errors import StoreError
from ctrbench.eval.metrics.auc import Auc
from ctrbench.report.commands import run_commands
from ctrbench.report.comparison import collect, compare
from ctrbench.report.control_gains import ControlGains, control_gains
from ctrbench.report.controls_table import controls_table
from ctrbench.report.csv_files import controls_csv
from ctrbench.report.summary import Summary, summarize
from ctrbench.report.tables import narrow_tables
from ctrbench.report.write import report
from ctrbench.runs.record import EQUAL_COST, SHUFFLED_DOMAINS, RunRecord
from ctrbench.runs.store import RunStore

MakeRecord = Callable[..., RunRecord]
SEEDS = (1, 2, 3)


def control(
    record: RunRecord, *, kind: str | None, cost: int | None, widths: Sequence[int] = (8, 4)
) -> RunRecord:
    """The record as that of a control, with its cost and the widths of its tower."""
    backbone = record.key.backbone.model_copy(update={"settings": {"hidden": list(widths)}})
    key = record.key.model_copy(update={"control": kind, "backbone": backbone})
    measured = record.measured.model_copy(update={"multiply_adds": cost})
    identity = {"key": key, "digest": key.digest, "run": key.run, "measured": measured}
    return record.model_copy(update=identity)


@pytest.fixture
def records(record: MakeRecord) -> list[RunRecord]:
    """Star gains 0.03 over plain, of which 0.02 beyond shuffled domains; no_domain costs less than plain."""
    made: list[RunRecord] = []
    for seed in SEEDS:
        noise = 0.001 * (seed - 2)
        rows: list[tuple[str, float, dict[str, Any]]] = [
            ("plain", 0.70, {"kind": None, "cost": 100}),
            ("star", 0.73, {"kind": None, "cost": 400}),
            ("no_domain", 0.69, {"kind": None, "cost": 60}),
            ("star", 0.71 + noise, {"kind": SHUFFLED_DOMAINS, "cost": 400}),
            ("plain", 0.705, {"kind": EQUAL_COST, "cost": 410, "widths": (20, 10)}),
            ("plain", 0.715, {"kind": EQUAL_COST, "cost": 800, "widths": (40, 20)}),
            ("plain", 0.702, {"kind": EQUAL_COST, "cost": 399, "widths": (18, 10)}),
        ]
        made += [control(record(method, seed, auc), **more) for method, auc, more in rows]
    return made


@pytest.fixture
def summary(records: list[RunRecord]) -> Summary:
    (comparison,) = compare(records)
    return summarize(comparison)


def gains_of(summary: Summary, method: str) -> ControlGains:
    (gains,) = (gains for gains in summary.controls["auc"] if gains.row.method == method)
    return gains


def test_controls_are_no_rows_and_change_no_label(records: list[RunRecord], summary: Summary) -> None:
    own = [record for record in records if record.key.control is None]
    (without,) = compare(own)
    assert summary.comparison.rows == without.rows
    assert [row.row.name for row in summary.rows] == [
        ("dnn", method) for method in ("plain", "star", "no_domain")
    ]
    assert [(row.backbone, row.method, row.key.control) for row in summary.comparison.controls] == [
        ("dnn", "star", SHUFFLED_DOMAINS),
        ("dnn[hidden=18-10]", "plain", EQUAL_COST),
        ("dnn[hidden=20-10]", "plain", EQUAL_COST),
        ("dnn[hidden=40-20]", "plain", EQUAL_COST),
    ]


def test_gains_are_over_plain_and_over_the_controls_of_the_method(summary: Summary) -> None:
    gains = gains_of(summary, "star")
    assert gains.over_plain is not None
    assert gains.beyond_domains is not None
    assert gains.beyond_cost is not None
    assert gains.over_plain.estimate.mean == pytest.approx(0.03)
    assert gains.beyond_domains.estimate.mean == pytest.approx(0.02)
    assert gains.beyond_domains.estimate.low == pytest.approx(0.02 - 4.3027 * 0.001 / 3**0.5, abs=1e-6)
    assert gains.beyond_cost.estimate.mean == pytest.approx(0.025)
    assert gains.equal_cost is not None
    assert gains.equal_cost.backbone == "dnn[hidden=20-10]"


def test_a_method_without_controls_has_its_gain_over_plain_only(summary: Summary) -> None:
    gains = gains_of(summary, "no_domain")
    assert gains.over_plain is not None
    assert gains.over_plain.estimate.mean == pytest.approx(-0.01)
    assert (gains.shuffled, gains.beyond_domains) == (None, None)
    assert (gains.equal_cost, gains.beyond_cost) == (None, None)


@pytest.mark.parametrize("cost", [340, None, 411])
def test_a_cost_that_is_not_near_or_not_known_has_no_control(
    records: list[RunRecord], record: MakeRecord, cost: int | None
) -> None:
    records = [each for each in records if (each.key.method.name, each.key.control) != ("star", None)]
    records += [control(record("star", seed, 0.73), kind=None, cost=cost) for seed in SEEDS]
    (comparison,) = compare(records)
    (star,) = (gains for gains in control_gains(comparison, Auc()) if gains.row.method == "star")
    assert star.equal_cost is None


def test_a_backbone_is_compared_with_its_own_controls(records: list[RunRecord], record: MakeRecord) -> None:
    records += [record(method, 1, 0.7, backbone="dcnv2") for method in ("plain", "star")]
    (comparison,) = compare(records)
    assert {gains.row.backbone for gains in control_gains(comparison, Auc())} == {"dnn"}


def test_the_table_shows_means_and_verdicts(summary: Summary) -> None:
    table = controls_table(summary)
    assert table is not None
    assert [(line.label, [cell.text for cell in line.cells]) for line in table.lines] == [
        ("dnn", []),
        (
            "star",
            [
                "0.7300",
                "+0.0300",
                "+0.0200",
                "too few seeds",
                "0.7050 (20-10)",
                "+0.0250",
                "too few seeds",
                "3",
            ],
        ),
        ("no_domain", ["0.6900", "−0.0100", "–", "–", "–", "–", "–", "3"]),
    ]


def test_narrow_formats_split_the_table_by_kind_of_control(summary: Summary) -> None:
    table = controls_table(summary)
    parts = narrow_tables(table)
    assert {name for part in parts for name in part.columns} == set(table.columns)
    assert [len(part.columns) for part in parts] == [3, 2, 3]
    assert [bool(part.footnotes) for part in parts] == [True, False, True]


def test_gains_over_controls_have_intervals_over_seeds_and_users(
    records: list[RunRecord], with_users: Callable[[list[RunRecord]], list[RunRecord]]
) -> None:
    six = [
        control(
            repeated(each, seed), kind=each.key.control, cost=each.measured.multiply_adds, widths=widths(each)
        )
        for each in records
        for seed in (each.key.seed, each.key.seed + 3)
    ]
    (comparison,) = compare(with_users(six))
    summary = summarize(comparison)
    gains = gains_of(summary, "star")
    for gain in (gains.over_plain, gains.beyond_domains, gains.beyond_cost):
        uncertainty = gain.difference.contrast.uncertainty
        assert uncertainty.low < gain.estimate.mean < uncertainty.high
        assert gain.difference.verdict == "better"
    table = controls_table(summary)
    assert table.lines[1].cells[2].text.startswith("+0.0200 (+0.01")
    (star,) = (
        line
        for line in csv.DictReader(io.StringIO(controls_csv([summary])))
        if (line["method"], line["metric"]) == ("star", "auc")
    )
    assert (star["beyond_domains_verdict"], star["beyond_cost_verdict"]) == ("better", "better")
    assert 0.01 < float(star["beyond_domains_low"]) < 0.02


def repeated(record: RunRecord, seed: int) -> RunRecord:
    return record.model_copy(update={"key": record.key.model_copy(update={"seed": seed})})


def widths(record: RunRecord) -> list[int]:
    return record.key.backbone.settings["hidden"]


def test_one_seed_has_no_interval(records: list[RunRecord]) -> None:
    (comparison,) = compare(record for record in records if record.key.seed == 2)
    table = controls_table(summarize(comparison))
    assert table is not None
    assert [cell.text for cell in table.lines[1].cells] == [
        "0.7300", "+0.0300", "+0.0200", "too few seeds", "0.7050 (20-10)", "+0.0250", "too few seeds", "1",
    ]  # fmt: skip


def test_without_controls_there_is_no_table(toy: list[RunRecord]) -> None:
    (comparison,) = compare(toy)
    summary = summarize(comparison)
    assert controls_table(summary) is None
    assert set(summary.controls.values()) == {()}
    assert not run_commands(comparison)[0].endswith("--controls")


def test_the_csv_has_every_metric_unrounded(summary: Summary) -> None:
    lines = list(csv.DictReader(io.StringIO(controls_csv([summary]))))
    (star,) = (line for line in lines if (line["method"], line["metric"]) == ("star", "auc"))
    assert float(star["beyond_domains_mean"]) == pytest.approx(0.02)
    assert star["equal_cost_backbone"] == "dnn[hidden=20-10]"
    assert (star["multiply_adds"], star["equal_cost_multiply_adds"]) == ("400", "410")
    assert {line["metric"] for line in lines} >= {"auc", "gauc", "logloss"}
    (bare,) = (line for line in lines if (line["method"], line["metric"]) == ("no_domain", "auc"))
    assert (bare["beyond_domains_mean"], bare["beyond_domains_seeds"]) == ("", "0")


def test_the_command_repeats_the_controls(summary: Summary) -> None:
    (command,) = run_commands(summary.comparison)
    assert command.endswith(" --controls")
    assert "hidden=20-10" not in command


def test_a_report_has_a_table_and_a_file_of_controls(
    records: list[RunRecord], store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.report.write.draw_figures", lambda *_: ())
    for record in records:
        store.write(record)
    files = report(store, dataset="toy", out=tmp_path / "report")
    assert "Controls · toy" in (tmp_path / "report" / "overall.md").read_text(encoding="utf-8")
    assert (tmp_path / "report" / "controls.csv") in files.tables
    assert "runs of controls" in files.page.read_text(encoding="utf-8")


def test_controls_alone_are_no_report(records: list[RunRecord], store: RunStore) -> None:
    for record in records:
        if record.key.control is not None:
            store.write(record)
    with pytest.raises(StoreError, match="records that are no controls"):
        collect(store, dataset="toy")
