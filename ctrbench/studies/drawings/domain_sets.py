"""Gain over plain against the number of domains, for domain sets of which each splits the one before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.report.comparison import gain
from ctrbench.report.table import Line, Table
from ctrbench.runs.store import RunStore
from ctrbench.studies.charts import Point, line_chart
from ctrbench.studies.drawing import Drawing, Drawn, Part, numbered
from ctrbench.studies.gains import gain_cell

METRICS = (Auc.name, Gauc.name)


class DomainSets(Drawing):
    """Gains over plain per domain set."""

    needs_plain: ClassVar[bool] = True

    def draw(self, parts: Sequence[Part], *, store: RunStore) -> Drawn:
        """Return a table and charts of the gains in AUC and GAUC per backbone."""
        tables, charts = [], []
        data: list[dict[str, object]] = []
        backbones = parts[0].comparison.backbones
        for number, backbone in enumerate(backbones, start=1):
            tables.append(_gains_table(parts, backbone))
            for metric in METRICS:
                points = list(_gain_points(parts, backbone, metric))
                data += [
                    {
                        "backbone": backbone,
                        "domains": int(point.position),
                        "method": point.method,
                        "metric": f"gain in {metric}",
                        **point.statistics(),
                    }
                    for point in points
                ]
                chart = line_chart(
                    parts[0].comparison,
                    points,
                    x_title="domains in training, logarithmic",
                    y_title=f"gain in {metric.upper()} over plain",
                    is_log=True,
                )
                charts.append((numbered(f"gain-{metric}", number, len(backbones)), chart))
        return Drawn(tables=tuple(tables), charts=tuple(charts), data=tuple(data))


def _num_domains(part: Part) -> int:
    return sum(rows > 0 for rows in part.any_result.domains.rows_train)


def _gain_points(parts: Sequence[Part], backbone: str, metric: str) -> Iterator[Point]:
    for part in parts:
        plain = part.comparison.plain(backbone)
        for row in part.comparison.of_backbone(backbone) if plain else ():
            values = list(gain(row, plain, metric).values()) if plain and row is not plain else []
            if values:
                yield Point(method=row.method, position=_num_domains(part), values=values)


def _gains_table(parts: Sequence[Part], backbone: str) -> Table:
    methods = [row.method for row in parts[0].comparison.of_backbone(backbone)]
    lines = []
    for part in parts:
        key = part.comparison.key
        features = " × ".join(key.domain_features)
        label = f"{features}: {_num_domains(part):,} domains, indicator {key.indicator}"
        lines.append(Line(kind="backbone", label=label))
        for metric in METRICS:
            cells = [gain_cell(part, backbone, method, metric) for method in methods]
            lines.append(Line(kind="method", label=metric.upper(), cells=tuple(cells)))
    return Table(
        name="domain-sets",
        title=f"Gain by domain set · {backbone} · {parts[0].comparison.key.dataset}",
        columns=tuple(methods),
        lines=tuple(lines),
        notes=(
            "plain: its own metric; the others: gain over plain with the same seed, mean and standard deviation over "
            "seeds. The groups of GAUC are the domains of the set, so the GAUC of plain changes with the set. "
            "Per-domain parameters are indexed by the indicator, which differs between the sets.",
        ),
    )
