"""The controls of a comparison: how much of each gain is due to the meaning of domains, and how much to cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.report.control_gains import ControlGains
from ctrbench.report.labels import show_value
from ctrbench.report.summary import Summary
from ctrbench.report.table import DASH, Cell, Line, Table, cell, difference_text, number, verdict_text

COLUMNS = (
    "AUC ↑",
    "gain over plain",
    "beyond shuffled domains",
    "verdict on domains",
    "plain at equal cost",
    "gain over it",
    "verdict on cost",
    "seeds",
)
PARTS = (("AUC ↑", "gain over plain", "seeds"), COLUMNS[2:4], COLUMNS[4:7])
"""Columns of the parts for narrow formats."""
NOTES = (
    "Gains in AUC, paired by seed; in brackets, the interval over seeds and test users, simultaneous over the methods "
    f"of the backbone (95 %), from {MIN_SEEDS} seeds on. Controls are not among the methods of the other tables.",
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


def controls_by_kind(table: Table) -> tuple[Table, ...]:
    """Split the table of controls: gains over plain, over shuffled domains, and over plain at equal cost."""
    over_plain, domains, cost = (table.select(columns) for columns in PARTS)
    return (
        replace(over_plain, definitions=()),
        replace(domains, notes=(), definitions=()),
        replace(cost, notes=()),
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
    yield Cell(text=difference_text(gains.over_plain, Auc.digits))
    yield Cell(text=difference_text(gains.beyond_domains, Auc.digits))
    yield Cell(text=verdict_text(gains.beyond_domains))
    yield Cell(text=_plain_text(gains))
    yield Cell(text=difference_text(gains.beyond_cost, Auc.digits))
    yield Cell(text=verdict_text(gains.beyond_cost))
    yield Cell(text=gains.row.failed_share or str(len(gains.row.finished)))


def _plain_text(gains: ControlGains) -> str:
    """Return the mean of plain at equal cost with the widths of its tower."""
    value = gains.equal_cost_score
    if gains.equal_cost is None or value is None:
        return DASH
    widths = show_value(gains.equal_cost.key.backbone.settings["hidden"])
    return f"{number(value.mean, Auc.digits)} ({widths})"
