"""Published figures of the AdaSparse paper for its public data, shown beside results on the same data.

Only for the dataset `iaac`: the twin has other rows and other clicks, so no published figure applies to it. The paper's
embedding size, epochs, early stopping and test are not published; equal figures cannot be expected.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from ctrbench.names import Metric
from ctrbench.report.comparison import Row
from ctrbench.report.summary import Summary
from ctrbench.report.table import Cell, Line, Table, cell, number

METRICS = (Metric.LOGLOSS, Metric.AUC, Metric.GAUC)
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
"""Values of `METRICS` in Table 1, public data (spec: adasparse-1.10)."""

REPORTED: dict[str, dict[str, str]] = {
    "star": {"norm": "pn", "aux": "all"},
    "apg": {"version": "v5"},
    "adasparse": {"form": "fusion"},
}
"""Settings of the methods in Table 1; another form or normalisation has no published figure."""


def paper_table(summary: Summary) -> Table | None:
    """Return published figures beside ours; None unless data, domains and a method are those of the paper."""
    comparison, key = summary.comparison, summary.comparison.key
    if key.dataset != DATASET or set(key.domain_features) != set(DOMAIN_FEATURES):
        return None
    lines = tuple(line for backbone in comparison.backbones for line in _lines(summary, backbone))
    if not lines:
        return None
    return Table(
        name="paper",
        title=f"Compared with the AdaSparse paper, Table 1 · {comparison.title}",
        columns=tuple(
            f"{summary.metrics.by_name[metric].title} {source}"
            for metric in METRICS
            for source in ("paper", "ours")
        ),
        lines=lines,
        notes=(
            "Paper: AdaSparse, CIKM 2022, public data; one figure per cell, without deviation. Its embedding size, "
            "epochs and early stopping are not published.",
        ),
    )


def _lines(summary: Summary, backbone: str) -> Iterable[Line]:
    rows = [row for row in summary.of_backbone(backbone) if _published_name(row.row) in PUBLISHED]
    if rows:
        yield Line(kind="backbone", label=backbone)
    for row in rows:
        published = zip(PUBLISHED[_published_name(row.row)], METRICS, strict=True)
        cells = [
            (Cell(text=number(value, digits)), cell(row.estimate(metric), digits))
            for value, metric in published
            for digits in [summary.metrics.by_name[metric].digits]
        ]
        yield Line(kind="method", label=row.row.method, cells=tuple(chain.from_iterable(cells)))


def _published_name(row: Row) -> tuple[str, str]:
    """Return backbone and method; the method with a star if its settings are not those of the paper."""
    method = row.key.method
    settings = {"norm": None, "aux": None, **REPORTED.get(method.name, {})}
    is_reported = all(method.settings.get(name, value) == value for name, value in settings.items())
    return row.key.backbone.name, method.name if is_reported else f"{method.name}*"
