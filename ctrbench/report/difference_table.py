"""Table of differences of each method from plain, with intervals, and of the ranks of all rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.report.differences import Gain
from ctrbench.report.footnotes import verdict_notes
from ctrbench.report.summary import RowSummary, Summary
from ctrbench.report.table import DASH, Cell, Line, Table, difference_text, number, rank_text, verdict_text

OF_AUC = ("AUC − plain", "verdict", "SE seeds / users", "rank")
OF_GAUC = ("GAUC − plain", "verdict in GAUC")
DIFFERENCES_NOTE = (
    "Differences are paired by seed; in brackets, the interval over seeds and test users, simultaneous over the "
    "methods of the backbone (95 %). SE: standard errors of the difference in AUC from plain, over seeds and over test "
    "users."
)


def difference_table(summary: Summary) -> Table | None:
    """Return the differences of all methods, and the ranks of all rows; None without any difference."""
    rows = [row for row in summary.rows if row.row.finished]
    if not any(row.score(Auc.name).gain for row in rows):
        return None
    return Table(
        name="differences",
        title=f"Differences · {summary.comparison.title}",
        columns=(*OF_AUC, *OF_GAUC),
        lines=tuple(_lines(summary, rows)),
        notes=tuple(verdict_notes(summary))[1:],
        definitions=(DIFFERENCES_NOTE,),
    )


def differences_by_metric(table: Table) -> tuple[Table, Table]:
    """Split the table of differences into those in AUC and those in GAUC."""
    return table.select(OF_AUC), replace(table.select(OF_GAUC), notes=(), definitions=())


def _lines(summary: Summary, rows: Sequence[RowSummary]) -> Iterable[Line]:
    for backbone in summary.comparison.backbones:
        own = [row for row in rows if row.row.backbone == backbone]
        if own:
            yield Line(kind="backbone", label=backbone)
        for row in own:
            yield Line(kind="method", label=row.row.method, cells=tuple(_cells(row)))


def _cells(row: RowSummary) -> Iterable[Cell]:
    auc, gauc = row.score(Auc.name), row.score(Gauc.name)
    yield from _gain_cells(auc.gain, Auc.digits)
    yield Cell(text=_error_text(auc.gain, Auc.digits))
    yield Cell(text=rank_text(row.rank))
    yield from _gain_cells(gauc.gain, Gauc.digits)


def _gain_cells(gain: Gain | None, digits: int) -> Iterable[Cell]:
    yield Cell(text=difference_text(gain, digits))
    yield Cell(text=verdict_text(gain))


def _error_text(gain: Gain | None, digits: int) -> str:
    uncertainty = gain.difference.contrast.uncertainty if gain and gain.difference else None
    if uncertainty is None:
        return DASH
    return f"{number(uncertainty.seeds, digits)} / {number(uncertainty.users, digits)}"
