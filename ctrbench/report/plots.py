"""The pictures of a report; one chart description gives both the SVG and the PNG.

They are drawn at the width of a printed column, 13 pixel type at 96 pixels an inch, and say nothing by colour alone:
methods differ in shape as well, in the order of the legend, and the palette is Okabe and Ito's. The inks are a few
fixed values, which the page exchanges for its own in the dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from ctrbench.eval.significance import paired
from ctrbench.names import UNSEEN, Column, DomainColumn, Metric, Split
from ctrbench.report.bins import BinMetric, BinTable
from ctrbench.report.comparison import Comparison, Row, stand
from ctrbench.report.tables import Mark, mark_of, number
from ctrbench.storage.files import replacing

INK, MUTED, GRID, PAPER = "#1b1b1b", "#5f5f5f", "#dedede", "#fefefe"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
GREY = "#767676"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHAPES = ("square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "circle")
WIDTH = 430
ORACLE_REACH = 6.0
"""The oracle's line is drawn as long as the axis is at most this many times as long as without it."""

DOT: dict[str, Any] = {"filled": True, "opacity": 1, "size": 80, "stroke": PAPER, "strokeWidth": 0.8}
Data = list[dict[str, Any]]
Panel = alt.LayerChart | alt.FacetChart


def metric_chart(comparison: Comparison, metric: str = Metric.AUC) -> alt.VConcatChart | None:
    """Draw mean and 95 % interval of every method, a panel a backbone; None without a number."""
    panels = [backbone for backbone in comparison.backbones if _points(comparison, backbone, metric)]
    if not panels:
        return None
    axis = _metric_axis(comparison, metric)
    drawn = [
        _metric_panel(comparison, backbone, metric, axis, is_last=backbone == panels[-1])
        for backbone in panels
    ]
    return styled(alt.vconcat(*drawn, spacing=14))


def gain_chart(table: BinTable, metric: BinMetric = "auc") -> alt.VConcatChart | None:
    """Draw the gain over the plain backbone by bin of domains, a panel a backbone; None without a gain."""
    data = _gains(table, metric)
    panels = [name for name in table.comparison.backbones if any(one["backbone"] == name for one in data)]
    if not panels:
        return None
    methods = [name for name in table.comparison.methods if any(one["method"] == name for one in data)]
    ends = [0.0, *(one[side] for one in data for side in ("low", "high"))]
    axis = alt.Scale(domain=padded(min(ends), max(ends), 0.05), nice=True)
    drawn = [
        _gain_panel(
            table,
            metric,
            methods,
            [one for one in data if one["backbone"] == name],
            axis,
            is_first=name == panels[0],
            is_last=name == panels[-1],
        )
        for name in panels
    ]
    return styled(alt.vconcat(*drawn, spacing=14))


def domain_chart(domain_table: pl.DataFrame) -> alt.VConcatChart:
    """Draw size and CTR of the training rows of every domain, ranked by size, as in Fig. 1 of the paper.

    Takes a domain table; the unseen domain has no training rows and is left out. The band is where a domain's CTR
    would lie 19 times in 20 if all domains had the overall CTR.
    """
    rows, positives = (
        column.format(split=Split.TRAIN) for column in (DomainColumn.ROWS, DomainColumn.POSITIVES)
    )
    seen = domain_table.filter((pl.col(Column.DOMAIN) != UNSEEN) & (pl.col(rows) > 0))
    overall = float(seen[positives].sum()) / max(float(seen[rows].sum()), 1.0)
    noise = 1.96 * (overall * (1 - overall) / pl.col("rows")).sqrt()
    ranked = (
        seen.select(rows=pl.col(rows), ctr=pl.col(positives) / pl.col(rows))
        .sort("rows", descending=True, maintain_order=True)
        .with_row_index("rank", offset=1)
        .with_columns(low=(overall - noise).clip(0), high=(overall + noise).clip(None, 1))
    )
    return styled(alt.vconcat(_size_panel(ranked), _ctr_panel(ranked, overall), spacing=26))


def save_chart(chart: alt.VConcatChart | alt.LayerChart, stem: Path) -> tuple[Path, Path]:
    """Write the chart as `stem`.svg and `stem`.png, each in one move."""
    specification = chart.to_dict()
    svg = str(vl_convert.vegalite_to_svg(specification))
    png = bytes(vl_convert.vegalite_to_png(specification, scale=2))
    return (
        _write(stem.with_name(f"{stem.name}.svg"), svg.encode()),
        _write(stem.with_name(f"{stem.name}.png"), png),
    )


def _write(file: Path, content: bytes) -> Path:
    with replacing(file) as part:
        part.write_bytes(content)
    return file


def inline(values: Data) -> alt.InlineData:
    """Return data that stand in the chart itself."""
    return alt.InlineData(values=values)


def styled(chart: alt.VConcatChart) -> alt.VConcatChart:
    """Return the chart in the inks and type of all pictures."""
    dressed: alt.VConcatChart = (
        chart.configure(font=FONT, background=PAPER, padding=6)
        .configure_view(stroke=None)
        .configure_axis(
            labelFontSize=13, titleFontSize=13, titleFontWeight="normal", labelColor=INK, titleColor=INK,
            gridColor=GRID, domainColor=MUTED, tickColor=MUTED, titlePadding=8, labelLimit=0,
        )
        .configure_title(fontSize=14, color=INK, anchor="start", fontWeight="bold", offset=6)
        .configure_legend(labelFontSize=13, labelColor=INK, symbolSize=80, labelLimit=0, title=None)
    )  # fmt: skip
    return dressed


def _style(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Give each method a colour and a shape that it keeps in every picture of a comparison; plain is grey."""
    plain = {row.method for row in comparison.rows if row.is_plain}
    others = [method for method in comparison.methods if method not in plain]
    styles = {
        method: (PALETTE[place % len(PALETTE)], SHAPES[place % len(SHAPES)])
        for place, method in enumerate(others)
    }
    return dict.fromkeys(plain, (GREY, "circle")) | styles


def encode_method(
    comparison: Comparison, methods: Sequence[str], legend: alt.Legend | None
) -> dict[str, Any]:
    """Return colour and shape of the methods, the same in every picture of a comparison."""
    styles = _style(comparison)
    colors, shapes = zip(*(styles[method] for method in methods), strict=True)
    domain = list(methods)
    return {
        "color": alt.Color("method:N", scale=alt.Scale(domain=domain, range=list(colors)), legend=legend),
        "shape": alt.Shape("method:N", scale=alt.Scale(domain=domain, range=list(shapes)), legend=legend),
    }


def padded(low: float, high: float, share: float) -> list[float]:
    """Return the ends of an axis with that share of room beyond both."""
    margin = (high - low or abs(high) or 1.0) * share
    return [low - margin, high + margin]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % t-interval of a mean; the mean itself for one value, which draws nothing."""
    test = paired(list(values))
    mean = float(test.mean or 0.0)
    return (
        test.low if test.low is not None else mean,
        test.high if test.high is not None else mean,
    )


# Mean and interval by method.


def _points(comparison: Comparison, backbone: str, metric: str) -> Data:
    rows = comparison.of_backbone(backbone)
    standing = stand(rows, metric)
    points = []
    for row in rows:
        values = list(row.values(metric).values())
        if values:
            low, high = interval(values)
            mark = mark_of(standing.get((row.backbone, row.method)))
            points.append(_point(row, sum(values) / len(values), low, high, mark))
    return points


def _point(row: Row, mean: float, low: float, high: float, mark: Mark) -> dict[str, Any]:
    sign = f" {mark}" if mark is Mark.NOT_SIGNIFICANT else ""
    return {
        "method": row.method,
        "mean": mean,
        "low": low,
        "high": high,
        "text": f"{number(mean, 4)}{sign}",
        "is_best": mark is Mark.BEST,
    }


def _metric_axis(comparison: Comparison, metric: str) -> tuple[alt.Scale, bool]:
    """Return the axis that all panels share, and whether the oracle lies on it."""
    points = [one for backbone in comparison.backbones for one in _points(comparison, backbone, metric)]
    low, high = min(one["low"] for one in points), max(one["high"] for one in points)
    oracle = comparison.oracle.get(metric)
    is_near = oracle is not None and oracle - low <= ORACLE_REACH * max(high - low, 1e-9)
    ends = padded(min(low, oracle), max(high, oracle), 0.04) if is_near and oracle else None
    return alt.Scale(domain=ends or padded(low, high, 0.06), nice=False, zero=False), is_near


def _metric_panel(
    comparison: Comparison, backbone: str, metric: str, axis: tuple[alt.Scale, bool], *, is_last: bool
) -> Panel:
    scale, is_oracle_near = axis
    points = _points(comparison, backbone, metric)
    methods = [one["method"] for one in points]
    base = alt.Chart(inline(points))
    y = alt.Y("method:N", sort=methods, title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=8))
    title = f"{metric.upper()} on the test rows{_interval_words(comparison)}" if is_last else None
    x = alt.X("mean:Q", scale=scale, title=title, axis=alt.Axis(tickCount=4, labels=is_last, ticks=is_last))
    layers = [
        *_reference_layers(comparison, backbone, metric, is_oracle_near),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", scale=scale), x2="high:Q", y=y, color=_color(comparison, methods)
        ),
        base.mark_point(**DOT).encode(x=x, y=y, **encode_method(comparison, methods, legend=None)),
        *_value_layers(base, y),
    ]
    return alt.layer(*layers).properties(width=WIDTH - 130, height=alt.Step(22), title=backbone)


def _interval_words(comparison: Comparison) -> str:
    return "" if comparison.num_seeds < 2 else ", mean and 95 % interval over seeds"


def _color(comparison: Comparison, methods: Sequence[str]) -> alt.Color:
    color: alt.Color = encode_method(comparison, methods, legend=None)["color"]
    return color


def _value_layers(base: alt.Chart, y: alt.Y) -> list[alt.Chart]:
    """Print the means in a column at the right edge, the best in bold."""
    place = alt.value(WIDTH - 130 + 10)
    return [
        base.transform_filter(f"datum.is_best === {str(is_best).lower()}")
        .mark_text(align="left", fontSize=13, fontWeight="bold" if is_best else "normal", color=INK)
        .encode(x=place, y=y, text="text:N")
        for is_best in (False, True)
    ]


def _reference_layers(
    comparison: Comparison, backbone: str, metric: str, is_oracle_near: bool
) -> list[alt.Chart]:
    """Draw a thin line at the plain backbone's mean, and the oracle's, if it is not too far away."""
    plain, oracle = comparison.plain(backbone), comparison.oracle.get(metric)
    found = plain.estimate(metric) if plain else None
    layers = []
    if found is not None:
        line = alt.Chart(inline([{"at": found.mean}]))
        layers.append(line.mark_rule(color=GREY, strokeDash=[2, 3]).encode(x="at:Q"))
    if oracle is not None and is_oracle_near:
        line = alt.Chart(inline([{"at": oracle}]))
        layers.append(line.mark_rule(color=INK, strokeDash=[6, 3]).encode(x="at:Q"))
    if oracle is not None and backbone == comparison.backbones[0]:
        layers.append(_oracle_label(oracle, is_oracle_near))
    return layers


def _oracle_label(oracle: float, is_near: bool) -> alt.Chart:
    text = f"oracle {number(oracle, 4)}" + ("" if is_near else " →")
    note = alt.Chart(inline([{"at": oracle, "text": text}]))
    label: alt.Chart = note.mark_text(
        align="right", baseline="bottom", dx=-2, dy=-4, fontSize=13, color=INK
    ).encode(x=alt.X("at:Q") if is_near else alt.value(WIDTH - 130), y=alt.value(0), text="text:N")
    return label


# Gain by bin.


def _gains(table: BinTable, metric: BinMetric) -> Data:
    data = []
    for row in table.comparison.rows:
        for one in table.bins if not row.is_plain else ():
            values = list(table.gains(row, one.bin, metric).values())
            if values:
                low, high = interval(values)
                data.append({
                    "backbone": row.backbone, "method": row.method, "bin": _bin_label(table, one.bin),
                    "gain": sum(values) / len(values), "low": low, "high": high,
                })  # fmt: skip
    return data


def _bin_label(table: BinTable, number_of_bin: int) -> str:
    num = table.bins[number_of_bin - 1].domains
    return f"BIN{number_of_bin}|{num:,} domain{'s' * (num != 1)}"


def _gain_panel(
    table: BinTable,
    metric: BinMetric,
    methods: list[str],
    data: Data,
    axis: alt.Scale,
    *,
    is_first: bool,
    is_last: bool,
) -> Panel:
    bins = [_bin_label(table, one.bin) for one in table.bins]
    labels = alt.Axis(
        labelExpr="split(datum.label, '|')", labelAngle=0, grid=False, ticks=False, labelPadding=6
    )
    words = "" if table.comparison.num_seeds < 2 else "; bars: 95 % interval over seeds"
    title = f"domains by size, largest first{words}" if is_last else None
    x = alt.X("bin:N", sort=bins, title=title, axis=labels, scale=alt.Scale(paddingInner=0, paddingOuter=0))
    place = {
        "x": x,
        "xOffset": alt.XOffset("method:N", sort=methods, scale=alt.Scale(paddingOuter=1, domain=methods)),
    }
    signs = alt.Axis(labelExpr="datum.value == 0 ? '0' : format(datum.value, '+.3f')", tickCount=6)
    y = alt.Y("gain:Q", scale=axis, axis=signs, title=f"gain in {metric.upper()} over plain")
    encoded = encode_method(table.comparison, methods, legend_of(methods) if is_first else None)
    base = alt.Chart(inline(data))
    stripes = alt.Chart(inline([{"bin": label} for label in bins[1::2]]))
    layers = [
        stripes.mark_rect(color=INK, opacity=0.05).encode(x=x),
        alt.Chart(inline([{"at": 0}])).mark_rule(color=INK).encode(y="at:Q"),
        base.mark_rule(strokeWidth=2).encode(
            **place, y=alt.Y("low:Q", scale=axis), y2="high:Q", color=encoded["color"]
        ),
        base.mark_point(**DOT).encode(**place, y=y, **encoded),
    ]
    width = max(WIDTH, len(bins) * (len(methods) + 1) * 9)
    return alt.layer(*layers).properties(width=width, height=205, title=data[0]["backbone"])


def legend_of(methods: Sequence[str]) -> alt.Legend:
    """Return a legend above the picture, in as many columns as fit."""
    longest = max(len(method) for method in methods)
    columns = max(1, min(len(methods), 66 // (longest + 5)))
    return alt.Legend(orient="top", columns=columns, offset=4, columnPadding=14)


# Domains.


def _size_panel(ranked: pl.DataFrame) -> Panel:
    base = alt.Chart(inline(ranked.to_dicts()))
    x = alt.X(
        "rank:Q", title=None, axis=alt.Axis(labels=False, ticks=False, grid=False), scale=_ranks(ranked)
    )
    sizes: list[int] = ranked["rows"].to_list()
    size = alt.Scale(type="log", domain=[min(sizes), max(sizes)], nice=True)
    decades = alt.Axis(format="~s", values=[10**power for power in range(10)])
    y = alt.Y("rows:Q", scale=size, title="training rows", axis=decades)
    ends = alt.Chart(inline(_ends(ranked)))
    return alt.layer(
        base.mark_line(interpolate="step-after", color=PALETTE[0], strokeWidth=2).encode(x=x, y=y),
        ends.transform_filter("datum.is_largest")
        .mark_text(align="left", dx=8, fontSize=13, color=INK)
        .encode(x=x, y=y, text="text:N"),
        ends.transform_filter("!datum.is_largest")
        # The curve falls, so the room below and left of its end is free.
        .mark_text(align="right", dx=-20, dy=-7, fontSize=13, color=INK)
        .encode(x=x, y=y, text="text:N"),
    ).properties(width=WIDTH, height=130, title=f"{ranked.height:,} domains")


def _ends(ranked: pl.DataFrame) -> Data:
    ends = ranked[[0, -1]].to_dicts()
    words = ("largest", "smallest")
    return [
        {**end, "text": f"{word} {end['rows']:,}", "is_largest": word == "largest"}
        for end, word in zip(ends, words, strict=True)
    ]


def _ctr_panel(ranked: pl.DataFrame, overall: float) -> Panel:
    base = alt.Chart(inline(ranked.to_dicts()))
    axis = alt.Axis(tickMinStep=1, grid=False, tickCount=6)
    x = alt.X("rank:Q", title="domains, largest first", axis=axis, scale=_ranks(ranked))
    scale = alt.Scale(domain=_ctr_ends(ranked), clamp=True, nice=True)
    y = alt.Y("ctr:Q", scale=scale, title="CTR", axis=alt.Axis(format=".2~%", tickCount=5))
    line = alt.Chart(inline([{"at": overall, "text": f"overall {100 * overall:.3g} %"}]))
    words = alt.Chart(inline([{"text": "band: where chance alone would put 95 % of domains"}]))
    dot = 16 if ranked.height <= 500 else 5
    return alt.layer(
        base.mark_area(color=GRID, interpolate="monotone").encode(
            x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q"
        ),
        base.mark_point(filled=True, color=PALETTE[1], size=dot, opacity=0.85).encode(x=x, y=y),
        line.mark_rule(color=INK, strokeDash=[6, 3]).encode(y="at:Q"),
        line.mark_text(align="left", baseline="middle", dx=6, fontSize=13, color=INK).encode(
            x=alt.value(WIDTH), y="at:Q", text="text:N"
        ),
        words.mark_text(align="right", baseline="bottom", dy=-4, fontSize=12, color=MUTED).encode(
            x=alt.value(WIDTH), y=alt.value(0), text="text:N"
        ),
    ).properties(width=WIDTH, height=150)


def _ctr_ends(ranked: pl.DataFrame) -> list[float]:
    """Span the CTRs of the domains; the band may leave the picture, since tiny domains would stretch it."""
    found = ranked["ctr"].to_list()
    low, high = padded(min(found), max(found), 0.05)
    return [max(low, 0.0), min(high, 1.0)]


def _ranks(ranked: pl.DataFrame) -> alt.Scale:
    return alt.Scale(domain=[0, ranked.height + 1], nice=False)
