"""Charts that several drawings share, in the papers' shapes and the report's colors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ctrbench.report.comparison import Comparison
from ctrbench.report.estimate import estimate
from ctrbench.report.plots import DOT, INK, WIDTH, encode_method, inline, legend_of, padded, styled


@dataclass(frozen=True, kw_only=True)
class Point:
    """The values of one method (one per seed) at one position of the other axis."""

    method: str
    position: float | str
    values: Sequence[float]

    def row(self) -> dict[str, Any]:
        """Return position, mean and 95 % interval over seeds."""
        summary = estimate(self.values)
        assert summary is not None
        return {
            "method": self.method,
            "position": self.position,
            "mean": summary.mean,
            "low": summary.low,
            "high": summary.high,
        }

    def statistics(self) -> dict[str, object]:
        """Return mean, standard deviation and number of seeds, for `data.csv`."""
        summary = estimate(self.values)
        return {"mean": summary.mean, "std": summary.std, "seeds": summary.num} if summary else {}


def line_chart(
    comparison: Comparison, points: Sequence[Point], *, x_title: str, y_title: str, is_log: bool
) -> alt.VConcatChart:
    """Draw values against a number, one line per method."""
    data = [point.row() for point in points]
    methods = [name for name in comparison.methods if any(row["method"] == name for row in data)]
    positions = sorted({float(row["position"]) for row in data})
    scale = alt.Scale(type="log" if is_log else "linear", nice=False, zero=False, padding=14)
    axis = alt.Axis(values=positions, format=",.0f") if is_log else alt.Axis(format=".0%", tickCount=8)
    x = alt.X("position:Q", scale=scale, axis=axis, title=x_title)
    legend = legend_of(methods) if len(methods) > 1 else None
    base, encoded = alt.Chart(inline(data)), encode_method(comparison, methods, legend)
    y_scale = alt.Scale(domain=axis_domain(data, include=0.0), nice=True)
    layers = [
        alt.Chart(inline([{"at": 0}])).mark_rule(color=INK).encode(y="at:Q"),
        base.mark_line(strokeWidth=1.5).encode(x=x, y=alt.Y("mean:Q", scale=y_scale), color=encoded["color"]),
        base.mark_rule(strokeWidth=2).encode(
            x=x, y=alt.Y("low:Q", scale=y_scale), y2="high:Q", color=encoded["color"]
        ),
        base.mark_point(**DOT).encode(
            x=x, y=alt.Y("mean:Q", scale=y_scale, axis=_signed_axis(), title=y_title), **encoded
        ),
    ]
    return styled(alt.vconcat(alt.layer(*layers).properties(width=WIDTH, height=220)))


def domains_chart(
    comparison: Comparison, points: Sequence[Point], *, title: str, reference: float | None
) -> alt.VConcatChart:
    """Draw a metric per domain, one row per domain and one mark per method; `reference` gets a vertical rule."""
    data = [point.row() for point in points]
    methods = [name for name in comparison.methods if any(row["method"] == name for row in data)]
    domains = list(dict.fromkeys(str(point.position) for point in points))
    encoded = encode_method(comparison, methods, legend_of(methods))
    scale = alt.Scale(domain=axis_domain(data, include=reference), nice=True, zero=False)
    axis = alt.Axis(domain=False, ticks=False, labelPadding=8, grid=True, labelLimit=220)
    y = alt.Y("position:N", sort=domains, title=None, axis=axis)
    base = alt.Chart(inline(data))
    offset = alt.YOffset("method:N", sort=methods, scale=alt.Scale(paddingOuter=0.6))
    layers = [
        base.mark_rule(strokeWidth=2).encode(
            y=y, yOffset=offset, x=alt.X("low:Q", scale=scale), x2="high:Q", color=encoded["color"]
        ),
        base.mark_point(**DOT).encode(
            y=y, yOffset=offset, x=alt.X("mean:Q", scale=scale, title=title), **encoded
        ),
    ]
    if reference is not None:
        rule = alt.Chart(inline([{"at": reference}])).mark_rule(color=INK, strokeDash=[6, 3])
        layers.insert(0, rule.encode(x="at:Q"))
    height = max(180, len(domains) * (6 + 7 * len(methods)))
    return styled(alt.vconcat(alt.layer(*layers).properties(width=WIDTH - 130, height=height)))


def axis_domain(data: Sequence[dict[str, Any]], *, include: float | None) -> list[float]:
    """Return the padded range of the intervals in `data`, widened to `include`."""
    ends = [row[side] for row in data for side in ("low", "high")]
    ends += [] if include is None else [include]
    return padded(min(ends), max(ends), 0.05)


def _signed_axis() -> alt.Axis:
    return alt.Axis(labelExpr="datum.value == 0 ? '0' : format(datum.value, '+.4f')", tickCount=6)
