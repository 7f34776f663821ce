"""Style and parts that all charts share, and how charts are written to files.

Charts have the width of a printed column, 13 pixel type at 96 pixels per inch, and never rely on color alone: methods
differ in shape as well, the legend has their order, and the palette is Okabe and Ito's. Text and lines use a few fixed
colors, which the page replaces in dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from ctrbench.address_space import CHARTS, check_address_space
from ctrbench.plain_text import file_name, printable
from ctrbench.report.comparison import Comparison
from ctrbench.storage.files import write_files

INK, MUTED, GRID, PAPER = "#1b1b1b", "#5f5f5f", "#dedede", "#fefefe"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
GRAY = "#767676"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHAPES = ("square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "circle")
WIDTH = 430

DOT: dict[str, Any] = {"filled": True, "opacity": 1, "size": 80, "stroke": PAPER, "strokeWidth": 0.8}
Data = list[dict[str, Any]]
Panel = alt.LayerChart | alt.FacetChart


def save_chart(chart: alt.VConcatChart | alt.LayerChart, stem: Path) -> tuple[Path, ...]:
    """Write a chart as `stem`.svg and `stem`.png."""
    files = render_chart(chart, stem)
    write_files(files)
    return tuple(files)


def render_chart(chart: alt.VConcatChart | alt.LayerChart, stem: Path) -> dict[Path, bytes]:
    """Return the files of a chart, `stem`.svg and `stem`.png, and their content; nothing is written."""
    check_address_space(CHARTS, "a chart")
    specification, stem = _drawable(chart.to_dict()), stem.with_name(file_name(stem.name))
    svg = str(vl_convert.vegalite_to_svg(specification))
    png = bytes(vl_convert.vegalite_to_png(specification, scale=2))
    return {stem.with_name(f"{stem.name}.svg"): svg.encode(), stem.with_name(f"{stem.name}.png"): png}


def _drawable(value: Any) -> Any:  # noqa: ANN401  # a value of JSON
    """Return a specification whose texts have escapes for characters that XML, and so SVG, forbids."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_drawable(name): _drawable(content) for name, content in value.items()}
    return [_drawable(content) for content in value] if isinstance(value, list | tuple) else value


def inline(values: Data) -> alt.InlineData:
    """Return data that are part of the chart itself."""
    # Altair copies charts often, with all lists and dictionaries in them; a tuple stays shared.
    return alt.InlineData(values=tuple(values))


def styled(chart: alt.VConcatChart) -> alt.VConcatChart:
    """Return the chart in the colors and type of all charts."""
    styled_chart: alt.VConcatChart = (
        chart.configure(font=FONT, background=PAPER, padding=6)
        .configure_view(stroke=None)
        .configure_axis(
            labelFontSize=13, titleFontSize=13, titleFontWeight="normal", labelColor=INK, titleColor=INK,
            gridColor=GRID, domainColor=MUTED, tickColor=MUTED, titlePadding=8, labelLimit=0,
        )
        .configure_title(fontSize=14, color=INK, anchor="start", fontWeight="bold", offset=6)
        .configure_legend(labelFontSize=13, labelColor=INK, symbolSize=80, labelLimit=0, title=None)
    )  # fmt: skip
    return styled_chart


def encode_method(
    comparison: Comparison, methods: Sequence[str], legend: alt.Legend | None
) -> dict[str, Any]:
    """Return color and shape of the methods, the same in every chart of a comparison."""
    styles = _method_styles(comparison)
    colors, shapes = zip(*(styles[method] for method in methods), strict=True)
    domain = list(methods)
    return {
        "color": alt.Color("method:N", scale=alt.Scale(domain=domain, range=list(colors)), legend=legend),
        "shape": alt.Shape("method:N", scale=alt.Scale(domain=domain, range=list(shapes)), legend=legend),
    }


def _method_styles(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return a color and a shape per method; plain is gray."""
    plain = {row.method for row in comparison.rows if row.is_plain}
    others = [method for method in comparison.methods if method not in plain]
    styles = {method: (PALETTE[i % len(PALETTE)], SHAPES[i % len(SHAPES)]) for i, method in enumerate(others)}
    return dict.fromkeys(plain, (GRAY, "circle")) | styles


def legend_of(methods: Sequence[str]) -> alt.Legend:
    """Return a legend above the chart, in as many columns as fit."""
    longest = max(len(method) for method in methods)
    columns = max(1, min(len(methods), 66 // (longest + 5)))
    return alt.Legend(orient="top", columns=columns, offset=4, columnPadding=14)


def padded(low: float, high: float, share: float) -> list[float]:
    """Return the ends of an axis, extended at both ends by that share of its length."""
    margin = (high - low or abs(high) or 1.0) * share
    return [low - margin, high + margin]
