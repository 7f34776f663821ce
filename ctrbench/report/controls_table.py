"""The controls of a comparison: how much of each gain is due to the meaning of domains, and how much to cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ctrbench.eval.metrics.auc import Auc
from ctrbench.report.control_gains import ControlGains
from ctrbench.report.estimate import Estimate
from ctrbench.report.labels import show_value
from ctrbench.report.summary import Summary
from ctrbench.report.table import DASH, Cell, Line, Table, cell, number, signed

COLUMNS = (
    "AUC ↑",
    "gain over plain",
    "beyond shuffled domains",
    "plain at equal cost",
    "gain over it",
    "seeds",
)
NOTES = (
    "Gains in AUC, paired by seed, with the 95 % t-interval over seeds; one seed has none. Controls are not among the "
    "methods of the other tables.",
)
DEFINITIONS = (
    "Beyond shuffled domains: gain over the same method with the domains of other rows in place of the row's own; "
    f"{DASH}: the method does not tell domains apart, or the control was not run. Plain at equal cost: AUC of plain "
    "with the tower's widths (in parentheses) multiplied until a row takes as many multiply-adds in a forward pass as "
    f"with the method; {DASH}: the method costs no more than plain, its cost is not recorded, or the control was not "
    "run.",
)


def controls_table(summary: Summary) -> Table | None:
    """Return the gain of each method over plain and over its controls, per backbone; None without controls."""
    gains = summary.controls.get(Auc.name, ())
    if not gains:
        return None
    return Table(
        name="controls",
        title=f"Controls · {summary.comparison.title}",
        columns=COLUMNS,
        lines=tuple(_lines(gains)),
        notes=NOTES,
        definitions=DEFINITIONS,
    )


def _lines(gains: Iterable[ControlGains]) -> Iterator[Line]:
    backbone = None
    for row in gains:
        if row.row.backbone != backbone:
            backbone = row.row.backbone
            yield Line(kind="backbone", label=backbone)
        yield Line(kind="method", label=row.row.method, cells=tuple(_cells(row)))


def _cells(gains: ControlGains) -> Iterator[Cell]:
    yield cell(gains.score, Auc.digits)
    yield _gain_cell(gains.over_plain)
    yield _gain_cell(gains.beyond_domains)
    yield Cell(text=_plain_text(gains))
    yield _gain_cell(gains.beyond_cost)
    yield Cell(text=gains.row.failed_share or str(len(gains.row.finished)))


def _plain_text(gains: ControlGains) -> str:
    """Return the mean of plain at equal cost with the widths of its tower."""
    value = gains.equal_cost_score
    if gains.equal_cost is None or value is None:
        return DASH
    widths = show_value(gains.equal_cost.key.backbone.settings["hidden"])
    return f"{number(value.mean, Auc.digits)} ({widths})"


def _gain_cell(gain: Estimate | None) -> Cell:
    if gain is None:
        return Cell()
    mean, low, high = (signed(value, Auc.digits) for value in (gain.mean, gain.low, gain.high))
    return Cell(text=mean if gain.std is None else f"{mean} [{low}, {high}]")
