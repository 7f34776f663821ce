"""Mean and 95 % interval of a metric by method, one panel per backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from ctrbench.report.chart import Chart, Figure
from ctrbench.report.comparison import Comparison
from ctrbench.report.estimate import Estimate
from ctrbench.report.plots import DOT, GRAY, INK, WIDTH, Data, Panel, encode_method, inline, padded, styled
from ctrbench.report.summary import RowSummary, Summary
from ctrbench.report.table import Mark, mark_of, number

ORACLE_REACH = 6.0
"""The oracle is drawn as a line if that makes the axis at most this many times as long."""
PANEL_WIDTH = WIDTH - 130


class ByMethod(Chart):
    """Mean and interval of each metric that is shown in charts, by method."""

    def draw(self, summary: Summary) -> Iterable[Figure]:
        """Yield one figure per metric."""
        for metric in summary.metrics.metrics:
            chart = metric_chart(summary, metric.name) if metric.in_charts else None
            if chart is not None:
                yield Figure(stem=metric.name, title=f"{metric.title} by method", chart=chart)


def metric_chart(summary: Summary, metric: str) -> alt.VConcatChart | None:
    """Draw mean and 95 % interval of every method, one panel per backbone; None without a value."""
    points = {backbone: _points(summary, backbone, metric) for backbone in summary.comparison.backbones}
    panels = [backbone for backbone, of_backbone in points.items() if of_backbone]
    if not panels:
        return None
    axis = _axis(summary.comparison, [point for backbone in panels for point in points[backbone]], metric)
    drawn_panels = [
        _panel(summary, backbone, metric, points[backbone], axis, is_last=backbone == panels[-1])
        for backbone in panels
    ]
    return styled(alt.vconcat(*drawn_panels, spacing=14))


def _points(summary: Summary, backbone: str, metric: str) -> Data:
    return [
        _point_of(row, row.score(metric).estimate, mark_of(row.score(metric)))
        for row in summary.of_backbone(backbone)
        if row.score(metric).estimate is not None
    ]


def _point_of(row: RowSummary, value: Estimate | None, mark: Mark) -> dict[str, Any]:
    assert value is not None
    return {
        "method": row.row.method,
        "mean": value.mean,
        "low": value.low,
        "high": value.high,
        "text": number(value.mean, 4),
        "is_best": mark is Mark.BEST,
    }


def _axis(comparison: Comparison, points: Data, metric: str) -> tuple[alt.Scale, bool]:
    """Return the axis that all panels share, and whether the oracle is on it."""
    low, high = min(point["low"] for point in points), max(point["high"] for point in points)
    oracle = comparison.oracle.get(metric)
    is_near = oracle is not None and oracle - low <= ORACLE_REACH * max(high - low, 1e-9)
    ends = padded(min(low, oracle), max(high, oracle), 0.04) if is_near and oracle else None
    return alt.Scale(domain=ends or padded(low, high, 0.06), nice=False, zero=False), is_near


def _panel(
    summary: Summary,
    backbone: str,
    metric: str,
    points: Data,
    axis: tuple[alt.Scale, bool],
    *,
    is_last: bool,
) -> Panel:
    scale, is_oracle_near = axis
    methods = [point["method"] for point in points]
    encoded = encode_method(summary.comparison, methods, legend=None)
    base = alt.Chart(inline(points))
    y = alt.Y("method:N", sort=methods, title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=8))
    title = (
        f"{summary.metrics.by_name[metric].title} on the test rows{_interval_text(summary.comparison)}"
        if is_last
        else None
    )
    x = alt.X("mean:Q", scale=scale, title=title, axis=alt.Axis(tickCount=4, labels=is_last, ticks=is_last))
    layers = [
        *_reference_layers(summary, backbone, metric, is_oracle_near),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=encoded["color"]
        ),
        base.mark_point(**DOT).encode(x=x, y=y, **encoded),
        *_value_layers(base, y),
    ]
    return alt.layer(*layers).properties(width=PANEL_WIDTH, height=alt.Step(22), title=backbone)


def _interval_text(comparison: Comparison) -> str:
    return "" if comparison.num_seeds < 2 else ", mean and 95 % interval over seeds"


def _value_layers(base: alt.Chart, y: alt.Y) -> list[alt.Chart]:
    """Return layers with the means in a column at the right edge, the best in bold."""
    x = alt.value(PANEL_WIDTH + 10)
    return [
        base.transform_filter(f"datum.is_best === {str(is_best).lower()}")
        .mark_text(align="left", fontSize=13, fontWeight="bold" if is_best else "normal", color=INK)
        .encode(x=x, y=y, text="text:N")
        for is_best in (False, True)
    ]


def _reference_layers(
    summary: Summary, backbone: str, metric: str, is_oracle_near: bool
) -> Sequence[alt.Chart]:
    """Return a thin line at the mean of plain, and one at the oracle if it is on the axis."""
    plain, oracle = summary.plain(backbone), summary.comparison.oracle.get(metric)
    base = plain.estimate(metric) if plain else None
    layers = []
    if base is not None:
        layers.append(_rule_chart(base.mean, GRAY, [2, 3]))
    if oracle is not None and is_oracle_near:
        layers.append(_rule_chart(oracle, INK, [6, 3]))
    if oracle is not None and backbone == summary.comparison.backbones[0]:
        layers.append(_oracle_label(oracle, is_oracle_near))
    return layers


def _rule_chart(value: float, color: str, dash: list[int]) -> alt.Chart:
    base = alt.Chart(inline([{"at": value}]))
    rule: alt.Chart = base.mark_rule(color=color, strokeDash=dash).encode(x="at:Q")
    return rule


def _oracle_label(oracle: float, is_near: bool) -> alt.Chart:
    text = f"oracle {number(oracle, 4)}" + ("" if is_near else " →")
    note = alt.Chart(inline([{"at": oracle, "text": text}]))
    label: alt.Chart = note.mark_text(
        align="right", baseline="bottom", dx=-2, dy=-4, fontSize=13, color=INK
    ).encode(x=alt.X("at:Q") if is_near else alt.value(PANEL_WIDTH), y=alt.value(0), text="text:N")
    return label
