"""AUC against the share of pruned neurons that a method reached, one point per setting of the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import altair as alt
import numpy as np

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.report.comparison import Row, gain
from ctrbench.report.estimate import estimate
from ctrbench.report.table import Cell, Line, Table, cell
from ctrbench.runs.store import RunStore
from ctrbench.studies.charts import Point, line_chart
from ctrbench.studies.drawing import Drawing, Drawn, Part, numbered
from ctrbench.studies.gains import gain_cell
from ctrbench.studies.inspections import read_inspections, repetition_note


class Sparsity(Drawing):
    """Pruned share and AUC per method."""

    needs_inspection: ClassVar[bool] = True

    def draw(self, parts: Sequence[Part], *, store: RunStore) -> Drawn:
        """Return a table and a chart per domain set and backbone."""
        tables, charts = [], []
        data: list[dict[str, object]] = []
        panels = [(part, backbone) for part in parts for backbone in part.comparison.backbones]
        for number, (part, backbone) in enumerate(panels, start=1):
            shares = {row.method: _pruned_shares(row, store) for row in part.comparison.of_backbone(backbone)}
            tables.append(_sparsity_table(part, backbone, shares, store))
            charts.append(
                (numbered("sparsity", number, len(panels)), _sparsity_chart(part, backbone, shares))
            )
            data += [
                {"backbone": backbone, "method": method, "seed": seed, "pruned": share}
                for method, by_seed in shares.items()
                for seed, share in by_seed.items()
            ]
        return Drawn(tables=tuple(tables), charts=tuple(charts), data=tuple(data))


def _pruned_shares(row: Row, store: RunStore) -> dict[int, float]:
    """Return the share of pruned neurons over all gates and test rows, by seed; empty for methods without gates."""
    shares = {}
    for seed, inspection in read_inspections(row, store).items():
        rows = inspection.rows_D
        kept_shares = [
            rows @ site.kept_DN.astype(np.float64).mean(1) / rows.sum() for site in inspection.sites
        ]
        sizes = [site.kept_DN.shape[1] for site in inspection.sites]
        shares[seed] = 1.0 - float(np.average(kept_shares, weights=sizes))
    return shares


def _sparsity_table(
    part: Part, backbone: str, shares: Mapping[str, Mapping[int, float]], store: RunStore
) -> Table:
    lines = []
    for row in part.comparison.of_backbone(backbone):
        share = estimate(shares[row.method].values())
        cells = (
            Cell() if share is None else cell(share, 3),
            cell(estimate(row.values(Auc.name).values()), 4),
            cell(estimate(row.values(Gauc.name).values()), 4),
            gain_cell(part, backbone, row.method, Auc.name) if not row.is_plain else Cell(text=""),
        )
        lines.append(Line(kind="method", label=row.method, cells=cells, remark=row.reason))
    return Table(
        name="sparsity",
        title=f"AUC by pruned share · {backbone} · {part.comparison.title}",
        columns=("pruned share", "AUC ↑", "GAUC ↑", "gain in AUC"),
        lines=tuple(lines),
        notes=(
            "Pruned share: share of the neurons of all gates together, over the test rows"
            f"{'; ±: standard deviation over seeds' if part.comparison.num_seeds > 1 else ''}.",
            *(
                note
                for row in part.comparison.of_backbone(backbone)
                for note in repetition_note(row, read_inspections(row, store))
            ),
        ),
    )


def _sparsity_chart(
    part: Part, backbone: str, shares: Mapping[str, Mapping[int, float]]
) -> alt.VConcatChart | None:
    plain = part.comparison.plain(backbone)
    gated = [row for row in part.comparison.of_backbone(backbone) if shares[row.method]]
    points = [
        Point(
            method=gated[0].method,
            position=float(np.mean(list(shares[row.method].values()))),
            values=list(gain(row, plain, Auc.name).values()),
        )
        for row in gated
        if plain is not None and gain(row, plain, Auc.name)
    ]
    if not points:
        return None
    return line_chart(
        part.comparison,
        points,
        x_title="share of neurons pruned on the test rows",
        y_title="gain in AUC over plain",
        is_log=False,
    )
