"""The AdaSparse paper's figures for its public data, shown beside ours where the data are really those.

Only for the dataset `iaac`: the twin has other rows and other clicks, so nothing published applies to it. The paper's
embedding size, epochs and early stopping are not published, and its test is not named; equal figures can't be expected.
"""

from __future__ import annotations

from collections.abc import Iterable

from ctrbench.report.comparison import Comparison, Row
from ctrbench.report.tables import DIGITS, RANKED, TITLES, Cell, Line, Table, cell, number

DATASET = "iaac"
DOMAIN_FEATURES = ("user_gender_id", "user_age_level", "user_star_level")
PUBLISHED: dict[tuple[str, str], tuple[float, float, float]] = {
    ("dnn", "plain"): (0.094886, 0.6506, 0.6442),
    ("dnn", "maml"): (0.093912, 0.6531, 0.6463),
    ("dnn", "star"): (0.093598, 0.6541, 0.6505),
    ("dnn", "apg"): (0.093264, 0.6585, 0.6553),
    ("dnn", "adasparse"): (0.093139, 0.6607, 0.6572),
    ("dcnv2", "plain"): (0.095097, 0.6497, 0.6443),
    ("dcnv2", "maml"): (0.094024, 0.6536, 0.6474),
    ("dcnv2", "star"): (0.093754, 0.6538, 0.6501),
    ("dcnv2", "apg"): (0.093375, 0.6572, 0.6536),
    ("dcnv2", "adasparse"): (0.093292, 0.6594, 0.6565),
}
"""LogLoss, AUC and GAUC of Table 1, public data (METHODS 1.10)."""

REPORTED: dict[str, dict[str, str]] = {
    "star": {"norm": "pn", "aux": "all"},
    "apg": {"version": "v5"},
    "adasparse": {"form": "fusion"},
}
"""Settings of the methods that Table 1 is about; another form or normalisation has no figure there."""


def paper_table(comparison: Comparison) -> Table | None:
    """Return published figures beside ours; None unless data, domains and a method are the paper's."""
    key = comparison.key
    if key.dataset != DATASET or set(key.domain_features) != set(DOMAIN_FEATURES):
        return None
    lines = tuple(line for backbone in comparison.backbones for line in _lines(comparison, backbone))
    if not lines:
        return None
    columns = tuple(f"{TITLES[metric]} {whose}" for metric in RANKED for whose in ("paper", "ours"))
    return Table(
        name="paper",
        title=f"Beside the AdaSparse paper, Table 1 · {comparison.title}",
        columns=columns,
        lines=lines,
        notes=(
            "Paper: AdaSparse, CIKM 2022, public data; one figure each, without deviation. Its embedding size, epochs "
            "and early stopping are not published.",
        ),
    )


def _lines(comparison: Comparison, backbone: str) -> Iterable[Line]:
    rows = [row for row in comparison.of_backbone(backbone) if _name(row) in PUBLISHED]
    if rows:
        yield Line(kind="backbone", label=backbone)
    for row in rows:
        cells = zip(PUBLISHED[_name(row)], RANKED, strict=True)
        pairs = [(Cell(text=number(value, DIGITS[metric])), _ours(row, metric)) for value, metric in cells]
        yield Line(kind="method", label=row.method, cells=tuple(one for pair in pairs for one in pair))


def _ours(row: Row, metric: str) -> Cell:
    return cell(row.estimate(metric), DIGITS[metric])


def _name(row: Row) -> tuple[str, str]:
    """Return backbone and method; the latter with a mark where its settings are not those that the paper reports on."""
    method = row.key.method
    asked = {"norm": None, "aux": None, **REPORTED.get(method.name, {})}
    is_theirs = all(method.settings.get(name, value) == value for name, value in asked.items())
    return row.key.backbone.name, method.name if is_theirs else f"{method.name}*"
