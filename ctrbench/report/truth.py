"""How far every method is from the truth, where the true click probability is known (METHODS 9.7).

LogLoss on labels is mostly the labels' own noise. Against the oracle's loss on the same labels most of that cancels,
and the expected LogLoss, taken against the probability itself, has none: it shows differences that labels hide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ctrbench.eval.oracle import AUC_EXPECTED
from ctrbench.names import Metric
from ctrbench.report.comparison import Comparison, Row, estimate
from ctrbench.report.tables import REFERENCES, Cell, Line, Table, cell, signed

COLUMNS = ("AUC − AUC* ↑", "LogLoss − oracle's ↓", "expected LogLoss ↓")
_AUC_DIGITS, _LOSS_DIGITS = 4, 5


def truth_table(comparison: Comparison) -> Table | None:
    """Return every method's distance from the true click probability; None where it is not known."""
    if comparison.oracle.get(AUC_EXPECTED) is None:
        return None
    lines = [line for backbone in comparison.backbones for line in _backbone_lines(comparison, backbone)]
    return Table(
        name="truth",
        title=f"Distance from the truth · {comparison.title}",
        columns=COLUMNS,
        lines=(*lines, *_reference_lines(comparison.oracle)),
        definitions=(
            "AUC*: what ranking by the true click probability gives in expectation, from the probabilities alone. "
            "LogLoss − oracle's: on the same labels, so that their noise mostly cancels. Expected LogLoss: against "
            "the true probability instead of labels, without their noise.",
        ),
    )


def _backbone_lines(comparison: Comparison, backbone: str) -> Iterable[Line]:
    yield Line(kind="backbone", label=backbone)
    for row in comparison.of_backbone(backbone):
        if row.reason:
            yield Line(kind="method", label=row.method, remark=row.reason)
        else:
            yield Line(kind="method", label=row.method, cells=_of_row(row, comparison.oracle))


def _of_row(row: Row, oracle: Mapping[str, float | None]) -> tuple[Cell, ...]:
    auc = _distances(row.values(Metric.AUC).values(), oracle.get(AUC_EXPECTED))
    excess = _distances(row.values(Metric.LOGLOSS).values(), oracle.get(Metric.LOGLOSS))
    expected = cell(row.estimate(Metric.EXPECTED_LOGLOSS), _LOSS_DIGITS)
    return (_signed(auc, _AUC_DIGITS), _signed(excess, _LOSS_DIGITS), expected)


def _reference_lines(oracle: Mapping[str, float | None]) -> Iterable[Line]:
    """The oracle on the labels at hand, and the best that a model could learn, where that is known."""
    for label, form in REFERENCES.items():
        names = [form.format(metric=name) for name in (Metric.AUC, Metric.LOGLOSS, Metric.EXPECTED_LOGLOSS)]
        auc, loss, expected = ([value] if (value := oracle.get(name)) is not None else [] for name in names)
        if auc or loss:
            cells = (
                _signed(_distances(auc, oracle.get(AUC_EXPECTED)), _AUC_DIGITS),
                _signed(_distances(loss, oracle.get(Metric.LOGLOSS)), _LOSS_DIGITS),
                cell(estimate(expected), _LOSS_DIGITS),
            )
            yield Line(kind="oracle", label=label, cells=cells)


def _distances(values: Iterable[float], origin: float | None) -> list[float]:
    return [] if origin is None else [value - origin for value in values]


def _signed(distances: list[float], digits: int) -> Cell:
    """Show mean and deviation of differences, the mean with its sign."""
    found = estimate(distances)
    shown = cell(found, digits)
    return shown if found is None else Cell(text=signed(found.mean, digits), spread=shown.spread)
