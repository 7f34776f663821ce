"""Cells of gains over plain, which several drawings share."""

from __future__ import annotations

from ctrbench.report.comparison import gain
from ctrbench.report.estimate import estimate
from ctrbench.report.table import Cell, cell, signed_cell
from ctrbench.studies.drawing import Part


def gain_cell(part: Part, backbone: str, method: str, metric: str) -> Cell:
    """Return the gain of a method over plain, paired by seed; for plain itself the metric."""
    plain = part.comparison.plain(backbone)
    row = next(row for row in part.comparison.of_backbone(backbone) if row.method == method)
    if plain is None or row is plain:
        return cell(estimate(row.values(metric).values()), 4)
    return signed_cell(estimate(gain(row, plain, metric).values()), 4)
