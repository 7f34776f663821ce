"""The pictures of studies, in the papers' shapes and the inks of all our pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from ctrbench.report.comparison import Comparison
from ctrbench.report.estimate import estimate
from ctrbench.report.plots import (
    DOT,
    GRID,
    INK,
    PALETTE,
    PAPER,
    WIDTH,
    encode_method,
    inline,
    legend_of,
    padded,
    styled,
)

Data = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One mark: a method's values (one a seed) at a place of the other axis."""

    method: str
    place: float | str
    values: Sequence[float]

    def row(self) -> dict[str, Any]:
        """Return place, mean and 95 % interval over seeds."""
        found = estimate(self.values)
        assert found is not None
        return {
            "method": self.method,
            "place": self.place,
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
        }


def line_chart(
    comparison: Comparison, points: Sequence[Point], *, x_title: str, y_title: str, is_log: bool
) -> alt.VConcatChart:
    """Draw values against a number, a line a method."""
    data = [point.row() for point in points]
    methods = [name for name in comparison.methods if any(one["method"] == name for one in data)]
    places = sorted({float(one["place"]) for one in data})
    scale = alt.Scale(type="log" if is_log else "linear", nice=False, zero=False, padding=14)
    axis = alt.Axis(values=places, format=",.0f") if is_log else alt.Axis(format=".0%", tickCount=8)
    x = alt.X("place:Q", scale=scale, axis=axis, title=x_title)
    legend = legend_of(methods) if len(methods) > 1 else None
    base, encoded = alt.Chart(inline(data)), encode_method(comparison, methods, legend)
    y_scale = alt.Scale(domain=_ends(data, also=0.0), nice=True)
    layers = [
        alt.Chart(inline([{"at": 0}])).mark_rule(color=INK).encode(y="at:Q"),
        base.mark_line(strokeWidth=1.5).encode(x=x, y=alt.Y("mean:Q", scale=y_scale), color=encoded["color"]),
        base.mark_rule(strokeWidth=2).encode(
            x=x, y=alt.Y("low:Q", scale=y_scale), y2="high:Q", color=encoded["color"]
        ),
        base.mark_point(**DOT).encode(
            x=x, y=alt.Y("mean:Q", scale=y_scale, axis=_signed(), title=y_title), **encoded
        ),
    ]
    return styled(alt.vconcat(alt.layer(*layers).properties(width=WIDTH, height=220)))


def domains_chart(
    comparison: Comparison, points: Sequence[Point], *, title: str, reference: float | None
) -> alt.VConcatChart:
    """Draw a metric of every domain, a line a domain, marks for methods; `reference` gets a rule."""
    data = [point.row() for point in points]
    methods = [name for name in comparison.methods if any(one["method"] == name for one in data)]
    domains = list(dict.fromkeys(str(point.place) for point in points))
    encoded = encode_method(comparison, methods, legend_of(methods))
    scale = alt.Scale(domain=_ends(data, also=reference), nice=True, zero=False)
    axis = alt.Axis(domain=False, ticks=False, labelPadding=8, grid=True, labelLimit=220)
    y = alt.Y("place:N", sort=domains, title=None, axis=axis)
    base = alt.Chart(inline(data))
    place = {"y": y, "yOffset": alt.YOffset("method:N", sort=methods, scale=alt.Scale(paddingOuter=0.6))}
    layers = [
        base.mark_rule(strokeWidth=2).encode(
            **place, x=alt.X("low:Q", scale=scale), x2="high:Q", color=encoded["color"]
        ),
        base.mark_point(**DOT).encode(**place, x=alt.X("mean:Q", scale=scale, title=title), **encoded),
    ]
    if reference is not None:
        rule = alt.Chart(inline([{"at": reference}])).mark_rule(color=INK, strokeDash=[6, 3])
        layers.insert(0, rule.encode(x="at:Q"))
    height = max(180, len(domains) * (6 + 7 * len(methods)))
    return styled(alt.vconcat(alt.layer(*layers).properties(width=WIDTH - 130, height=height)))


def masks_chart(names: Sequence[str], kept: Mapping[int, np.ndarray]) -> alt.VConcatChart:
    """Draw the neurons of a site, a row a domain: dark where the domain's rows prune a neuron in the main.

    `kept` holds, by seed, the share of a domain's rows that keep each neuron, of shape [domains, neurons]; a model's
    neurons are its own, so seeds stand one below the other.
    """
    seeds = [
        _masks_of_seed(names, kept_DN, f"seed {seed}" if len(kept) > 1 else "")
        for seed, kept_DN in kept.items()
    ]
    return styled(alt.vconcat(*seeds))


def _masks_of_seed(names: Sequence[str], kept_DN: np.ndarray, title: str) -> alt.Chart:
    data = [
        {"domain": name, "neuron": place, "kept": "kept" if share > 0.5 else "pruned"}
        for name, row in zip(names, kept_DN, strict=True)
        for place, share in enumerate(row.tolist())
    ]
    width = WIDTH + 60
    x = alt.X(
        "neuron:O",
        title="neuron",
        axis=alt.Axis(values=list(range(0, kept_DN.shape[1], 16)), labelAngle=0, ticks=False),
        scale=alt.Scale(paddingInner=0, paddingOuter=0),
    )
    y = alt.Y("domain:N", sort=list(names), title=None, axis=alt.Axis(domain=False, ticks=False))
    color = alt.Color(
        "kept:N",
        scale=alt.Scale(domain=["kept", "pruned"], range=[GRID, PALETTE[0]]),
        legend=alt.Legend(orient="top", symbolType="square"),
    )
    cells = alt.Chart(inline(data), width=width, height=34 * len(names), title=title)
    marked: alt.Chart = cells.mark_rect(stroke=PAPER, strokeWidth=0.6).encode(x=x, y=y, color=color)
    return marked


def _ends(data: Data, *, also: float | None) -> list[float]:
    ends = [one[side] for one in data for side in ("low", "high")]
    return padded(*_span([*ends, *([] if also is None else [also])]), 0.05)


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _signed() -> alt.Axis:
    return alt.Axis(labelExpr="datum.value == 0 ? '0' : format(datum.value, '+.4f')", tickCount=6)
