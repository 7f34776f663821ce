"""Gains of methods over plain, over their control with shuffled domains, and over plain at equal cost.

Every gain is paired by seed. A control belongs to the row of the same method and backbone; plain at equal cost is found
by the multiply-adds that records hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctrbench.report.comparison import Comparison, Row, gain
from ctrbench.report.estimate import Estimate, estimate
from ctrbench.report.labels import canonical_text
from ctrbench.runs.record import EQUAL_COST, SHUFFLED_DOMAINS, RunKey

COST_TOLERANCE = 0.15
"""Largest share by which the cost of plain at equal cost may exceed that of the method."""


@dataclass(frozen=True, kw_only=True)
class ControlGains:
    """Gains of one row in one metric; an estimate is None without common seeds, or without that control."""

    row: Row
    score: Estimate | None
    """The metric itself."""
    over_plain: Estimate | None
    shuffled: Row | None
    """The row with shuffled domains; None if the method has no such control, or none was run."""
    beyond_domains: Estimate | None
    """Gain over the row with shuffled domains."""
    equal_cost: Row | None
    """The row of plain at equal cost; None if there is none."""
    equal_cost_score: Estimate | None
    """The metric of that row."""
    beyond_cost: Estimate | None
    """Gain over the row of plain at equal cost."""


def control_gains(comparison: Comparison, metric: str) -> tuple[ControlGains, ...]:
    """Return the gains of every row but plain on the backbones that have controls; none without controls."""
    gains = [
        _control_gains(comparison, row, metric)
        for backbone in comparison.backbones
        for row in comparison.of_backbone(backbone)
        if row.finished and row is not comparison.plain(backbone)
    ]
    with_controls = {gains.row.backbone for gains in gains if gains.shuffled or gains.equal_cost}
    return tuple(gains for gains in gains if gains.row.backbone in with_controls)


def _control_gains(comparison: Comparison, row: Row, metric: str) -> ControlGains:
    shuffled, equal_cost = control_of(comparison, row), plain_at_cost_of(comparison, row)
    return ControlGains(
        row=row,
        score=_score(row, metric),
        over_plain=_gain(row, comparison.plain(row.backbone), metric),
        shuffled=shuffled,
        beyond_domains=_gain(row, shuffled, metric),
        equal_cost=equal_cost,
        equal_cost_score=None if equal_cost is None else _score(equal_cost, metric),
        beyond_cost=_gain(row, equal_cost, metric),
    )


def _score(row: Row, metric: str) -> Estimate | None:
    return estimate(row.values(metric).values())


def _gain(row: Row, base: Row | None, metric: str) -> Estimate | None:
    return None if base is None else estimate(gain(row, base, metric).values())


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
