"""Tuned against default settings: what tuning gains for each method, and the settings that it chose."""

from __future__ import annotations

from collections.abc import Iterator

from ctrbench.eval.metrics.auc import Auc
from ctrbench.report.comparison import Comparison, Row
from ctrbench.report.differences import gains_over
from ctrbench.report.estimate import estimate
from ctrbench.report.labels import show_value
from ctrbench.report.summary import Summary
from ctrbench.report.table import Cell, Line, Table, cell, difference_text, number
from ctrbench.runs.record import RunKey
from ctrbench.runs.trials import best_of, is_run_of, score, search_of

COLUMNS = ("AUC, default ↑", "AUC, tuned ↑", "gain", "seeds", "trials", "best dev AUC", "changed settings")


def tuned_table(summary: Summary) -> Table | None:
    """Return one line per method and backbone with tuned runs; None without them."""
    pairs = list(_pairs(summary.comparison))
    if not pairs:
        return None
    return Table(
        name="tuned",
        title=f"Tuned and default settings · {summary.comparison.title}",
        columns=COLUMNS,
        lines=tuple(_lines(summary, pairs)),
        notes=(
            "Gain: tuned minus default, paired by seed. Trials choose by dev AUC with a seed of their own; all methods "
            "have the number of trials that stands in their row.",
        ),
    )


def _pairs(comparison: Comparison) -> Iterator[tuple[Row, Row]]:
    """Yield the rows of tuned runs, each with the row of the same method and backbone that it is compared with."""
    for row in comparison.rows:
        best = best_of(comparison.searches.get(search_of(row.key), ()))
        if best is None or not row.finished or not is_run_of(best, row.key):
            continue
        others = (
            other
            for other in comparison.of_backbone(row.backbone)
            if other is not row and other.finished and search_of(other.key) == search_of(row.key)
        )
        default = next(others, None)
        if default is not None:
            yield row, default


def _lines(summary: Summary, pairs: list[tuple[Row, Row]]) -> Iterator[Line]:
    auc = summary.metrics.by_name[Auc.name]
    backbone = None
    for (row, default), gain in zip(pairs, gains_over(pairs, auc), strict=True):
        if row.backbone != backbone:
            backbone = row.backbone
            yield Line(kind="backbone", label=backbone)
        trials = summary.comparison.searches[search_of(row.key)]
        best = best_of(trials)
        assert best is not None
        yield Line(
            kind="method",
            label=row.key.method.name,
            cells=(
                cell(estimate(default.values(Auc.name).values()), Auc.digits),
                cell(estimate(row.values(Auc.name).values()), Auc.digits),
                Cell(text=difference_text(gain, Auc.digits)),
                Cell(text=str(len(row.values(Auc.name).keys() & default.values(Auc.name).keys()))),
                Cell(text=str(len(trials))),
                Cell(text=number(score(best), Auc.digits)),
                Cell(text=_changes(row.key, default.key)),
            ),
        )


def _changes(tuned: RunKey, default: RunKey) -> str:
    """Return the settings of the tuned row that differ from those of the other."""
    settings = {
        name: value
        for name, value in tuned.method.settings.items()
        if default.method.settings.get(name) != value
    }
    if tuned.indicator != default.indicator:
        settings["indicator"] = tuned.indicator
    return ", ".join(f"{name}={show_value(value)}" for name, value in settings.items())
