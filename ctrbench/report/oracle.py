"""Distance of every method from the truth, where the true click probability is known (spec: production-9.7).

LogLoss on labels is mostly the noise of the labels. Most of it cancels in the difference from the oracle's loss on the
same labels, and the expected LogLoss, taken against the probability itself, has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.expected_logloss import ExpectedLogLoss
from ctrbench.eval.metrics.logloss import LogLoss
from ctrbench.eval.oracle import AUC_EXPECTED
from ctrbench.report.summary import ORIGINS, RowSummary, Summary
from ctrbench.report.table import Cell, Line, Table, cell, number, signed, signed_cell
from ctrbench.report.tables import REFERENCES, method_lines

COLUMNS = ("AUC − AUC* ↑", "LogLoss − oracle's ↓", "expected LogLoss ↓")
_DIGITS = {metric.name: metric.digits for metric in (Auc, LogLoss)}


def oracle_table(summary: Summary) -> Table | None:
    """Return the distance of every method from the true click probability; None if it is unknown."""
    comparison = summary.comparison
    if comparison.oracle.get(AUC_EXPECTED) is None:
        return None
    return Table(
        name="truth",
        title=f"Distance from the truth · {comparison.title}",
        columns=COLUMNS,
        lines=(*method_lines(summary, _distance_cells), *_reference_lines(comparison.oracle)),
        definitions=(
            "AUC*: expected AUC of ranking by the true click probability, computed from the probabilities alone. "
            "LogLoss − oracle's: on the same labels, so that most of their noise cancels. Expected LogLoss: against "
            "the true probability instead of labels, without their noise.",
        ),
    )


def _distance_cells(row: RowSummary) -> tuple[Cell, ...]:
    distances = [signed_cell(row.distances.get(metric), _DIGITS[metric]) for metric in ORIGINS]
    expected = cell(row.estimate(ExpectedLogLoss.name), ExpectedLogLoss.digits)
    return (*distances, expected)


def _reference_lines(oracle: Mapping[str, float | None]) -> Iterable[Line]:
    """Yield the oracle on the labels of the test rows, and the learnable ceiling where it is known."""
    for label, form in REFERENCES.items():
        distances = {
            metric: _oracle_distance(oracle, form.format(metric=metric), metric) for metric in ORIGINS
        }
        if any(value is not None for value in distances.values()):
            expected = oracle.get(form.format(metric=ExpectedLogLoss.name))
            cells = [_signed_cell(value, _DIGITS[metric]) for metric, value in distances.items()]
            text = number(expected, ExpectedLogLoss.digits)
            yield Line(kind="oracle", label=label, cells=(*cells, Cell(text=text)))


def _oracle_distance(oracle: Mapping[str, float | None], name: str, metric: str) -> float | None:
    value, origin = oracle.get(name), oracle.get(ORIGINS[metric])
    return None if value is None or origin is None else value - origin


def _signed_cell(value: float | None, digits: int) -> Cell:
    return Cell() if value is None else Cell(text=signed(value, digits))
