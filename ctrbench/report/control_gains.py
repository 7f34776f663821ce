"""Gains of methods over plain, over their control with shuffled domains, and over plain at equal cost.

Every gain is paired by seed. A control belongs to the row of the same method and backbone; plain at equal cost is found
by the multiply-adds that records hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctrbench.eval.metrics.base import Metric
from ctrbench.report.comparison import Comparison, Row
from ctrbench.report.differences import Gain, gains_over
from ctrbench.report.estimate import Estimate, estimate
from ctrbench.report.labels import canonical_text
from ctrbench.runs.record import EQUAL_COST, SHUFFLED_DOMAINS, RunKey

COST_TOLERANCE = 0.15
"""Largest share by which the cost of plain at equal cost may exceed that of the method."""


@dataclass(frozen=True, kw_only=True)
class ControlGains:
    """Gains of one row in one metric; a gain is None without that control."""

    row: Row
    score: Estimate | None
    """The metric itself."""
    over_plain: Gain | None
    shuffled: Row | None
    """The row with shuffled domains; None if the method has no such control, or none was run."""
    beyond_domains: Gain | None
    """Gain over the row with shuffled domains."""
    equal_cost: Row | None
    """The row of plain at equal cost; None if there is none."""
    equal_cost_score: Estimate | None
    """The metric of that row."""
    beyond_cost: Gain | None
    """Gain over the row of plain at equal cost."""


def control_gains(comparison: Comparison, metric: Metric) -> tuple[ControlGains, ...]:
    """Return the gains of every row but plain on the backbones that have controls; none without controls."""
    every = (_backbone_gains(comparison, backbone, metric) for backbone in comparison.backbones)
    return tuple(
        gains for of_backbone in every if any(map(_has_control, of_backbone)) for gains in of_backbone
    )


def _has_control(gains: ControlGains) -> bool:
    return gains.shuffled is not None or gains.equal_cost is not None


def _backbone_gains(comparison: Comparison, backbone: str, metric: Metric) -> list[ControlGains]:
    """Return the gains of the rows of a backbone; those over the same kind of row are one family."""
    plain = comparison.plain(backbone)
    rows = [row for row in comparison.of_backbone(backbone) if row.finished and row is not plain]
    shuffled = [control_of(comparison, row) for row in rows]
    equal_cost = [plain_at_cost_of(comparison, row) for row in rows]
    over_plain, beyond_domains, beyond_cost = (
        _gains(rows, bases, metric) for bases in ([plain] * len(rows), shuffled, equal_cost)
    )
    return [
        ControlGains(
            row=row,
            score=_score(row, metric.name),
            over_plain=over_plain[i],
            shuffled=shuffled[i],
            beyond_domains=beyond_domains[i],
            equal_cost=equal_cost[i],
            equal_cost_score=_score(equal_cost[i], metric.name),
            beyond_cost=beyond_cost[i],
        )
        for i, row in enumerate(rows)
    ]


def _gains(rows: Sequence[Row], bases: Sequence[Row | None], metric: Metric) -> list[Gain | None]:
    """Return the gain of each row over its base; None without one."""
    pairs = [(row, base) for row, base in zip(rows, bases, strict=True) if base is not None]
    gains = iter(gains_over(pairs, metric))
    return [None if base is None else next(gains) for base in bases]


def _score(row: Row | None, metric: str) -> Estimate | None:
    return None if row is None else estimate(row.values(metric).values())


def control_of(comparison: Comparison, row: Row) -> Row | None:
    """Return the row of the same method and backbone with shuffled domains."""
    shuffled = (other for other in comparison.controls if other.key.control == SHUFFLED_DOMAINS)
    return next((other for other in shuffled if other.name == row.name), None)


def plain_at_cost_of(comparison: Comparison, row: Row) -> Row | None:
    """Return the cheapest row of plain on a wider backbone that costs as much as a row; None if none is near."""
    cost, backbone = row.multiply_adds, _without_widths(row.key)
    if not cost:
        return None
    costs = [
        (other.multiply_adds, other)
        for other in comparison.controls
        if other.key.control == EQUAL_COST and other.multiply_adds
        if _without_widths(other.key) == backbone
    ]
    near = [(own, other) for own, other in costs if cost <= own <= cost * (1 + COST_TOLERANCE)]
    _, cheapest = min(near, key=lambda item: item[0], default=(0, None))
    return cheapest


def _without_widths(key: RunKey) -> tuple[str, str | None, str]:
    """Return the backbone of a key without the widths of its tower."""
    settings = {name: value for name, value in key.backbone.settings.items() if name != "hidden"}
    return key.backbone.name, key.backbone.source, canonical_text(settings)
