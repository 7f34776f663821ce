"""Gain over plain by bin of domains, one panel per backbone, as in Fig. 3b of the AdaSparse paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from ctrbench.eval.stored import BinMetrics
from ctrbench.report.chart import Chart, Figure
from ctrbench.report.plots import (
    DOT,
    INK,
    WIDTH,
    Data,
    Panel,
    encode_method,
    inline,
    legend_of,
    padded,
    styled,
)
from ctrbench.report.summary import Summary


class GainByBin(Chart):
    """Gain over plain of each metric of bins that is shown in charts, by bin of domains."""

    def draw(self, summary: Summary) -> Iterable[Figure]:
        """Yield one figure per metric."""
        for metric in summary.bin_metrics:
            chart = gain_chart(summary, metric.name) if metric.in_charts else None
            if chart is not None:
                title = f"Gain in {metric.title} by size of domain"
                yield Figure(stem=f"gain-{metric.name}", title=title, chart=chart)


def gain_chart(summary: Summary, metric: str) -> alt.VConcatChart | None:
    """Draw the gain over plain by bin of domains, one panel per backbone; None without a gain."""
    data, comparison = _gain_data(summary, metric), summary.comparison
    backbones = [name for name in comparison.backbones if any(point["backbone"] == name for point in data)]
    if not backbones:
        return None
    methods = [name for name in comparison.methods if any(point["method"] == name for point in data)]
    ends = [0.0, *(point[side] for point in data for side in ("low", "high"))]
    scale = alt.Scale(domain=padded(min(ends), max(ends), 0.05), nice=True)
    panels = [
        _panel(
            summary,
            metric,
            methods,
            [point for point in data if point["backbone"] == backbone],
            scale,
            is_first=backbone == backbones[0],
            is_last=backbone == backbones[-1],
        )
        for backbone in backbones
    ]
    return styled(alt.vconcat(*panels, spacing=14))


def _gain_data(summary: Summary, metric: str) -> Data:
    return [
        {
            "backbone": row.row.backbone,
            "method": row.row.method,
            "bin": _bin_label(bin_),
            "gain": score.gain.mean,
            "low": score.gain.low,
            "high": score.gain.high,
        }
        for row in summary.rows
        if not row.row.is_plain
        for bin_, score in zip(summary.bins.bins, row.bins[metric], strict=True)
        if score.gain is not None
    ]


def _bin_label(bin_: BinMetrics) -> str:
    return f"BIN{bin_.bin}|{bin_.domains:,} domain{'s' * (bin_.domains != 1)}"


def _panel(
    summary: Summary,
    metric: str,
    methods: Sequence[str],
    data: Data,
    scale: alt.Scale,
    *,
    is_first: bool,
    is_last: bool,
) -> Panel:
    bins = [_bin_label(bin_) for bin_ in summary.bins.bins]
    x = _bin_axis(summary, bins, has_title=is_last)
    offset = alt.XOffset("method:N", sort=list(methods), scale=_offset_scale(methods))
    signs = alt.Axis(labelExpr="datum.value == 0 ? '0' : format(datum.value, '+.3f')", tickCount=6)
    y = alt.Y(
        "gain:Q", scale=scale, axis=signs, title=f"gain in {summary.metrics.by_name[metric].title} over plain"
    )
    encoded = encode_method(summary.comparison, methods, legend_of(methods) if is_first else None)
    base = alt.Chart(inline(data))
    layers = [
        *_background(bins, x),
        base.mark_rule(strokeWidth=2).encode(
            x=x, xOffset=offset, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=encoded["color"]
        ),
        base.mark_point(**DOT).encode(x=x, xOffset=offset, y=y, **encoded),
    ]
    width = max(WIDTH, len(bins) * (len(methods) + 1) * 9)
    return alt.layer(*layers).properties(width=width, height=205, title=data[0]["backbone"])


def _bin_axis(summary: Summary, bins: Sequence[str], *, has_title: bool) -> alt.X:
    intervals = "" if summary.comparison.num_seeds < 2 else "; bars: 95 % interval over seeds"
    return alt.X(
        "bin:N",
        sort=list(bins),
        title=f"domains by size, largest first{intervals}" if has_title else None,
        axis=alt.Axis(
            labelExpr="split(datum.label, '|')", labelAngle=0, grid=False, ticks=False, labelPadding=6
        ),
        scale=alt.Scale(paddingInner=0, paddingOuter=0),
    )


def _offset_scale(methods: Sequence[str]) -> alt.Scale:
    return alt.Scale(paddingOuter=1, domain=list(methods))


def _background(bins: Sequence[str], x: alt.X) -> list[Any]:
    """Return a stripe behind every second bin, and a line at 0."""
    stripes = alt.Chart(inline([{"bin": label} for label in bins[1::2]]))
    return [
        stripes.mark_rect(color=INK, opacity=0.05).encode(x=x),
        alt.Chart(inline([{"at": 0}])).mark_rule(color=INK).encode(y="at:Q"),
    ]
