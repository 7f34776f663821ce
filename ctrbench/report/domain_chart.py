"""Size and click-through rate of every domain of a dataset, as in Fig. 1 of the AdaSparse paper."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import polars as pl

from ctrbench.eval.domain_rates import DomainRates, domain_rates
from ctrbench.report.plots import (
    GRID,
    INK,
    MUTED,
    PALETTE,
    WIDTH,
    Data,
    Panel,
    inline,
    padded,
    save_chart,
    styled,
)


def write_domain_chart(
    domain_table: pl.DataFrame, out: Path, *, dataset: str, domain_set: str
) -> tuple[Path, ...]:
    """Write the chart of a domain table to a folder, as SVG and PNG named after dataset and domain set."""
    return save_chart(domain_chart(domain_rates(domain_table)), out / f"domains-{dataset}-{domain_set}")


def domain_chart(rates: DomainRates) -> alt.VConcatChart:
    """Draw size and CTR of every domain, ranked by size, and the band of `DomainRates`."""
    ranked = rates.ranked
    return styled(alt.vconcat(_size_panel(ranked), _ctr_panel(ranked, rates.overall), spacing=26))


def _size_panel(ranked: pl.DataFrame) -> Panel:
    base = alt.Chart(inline(ranked.to_dicts()))
    x = alt.X(
        "rank:Q", title=None, axis=alt.Axis(labels=False, ticks=False, grid=False), scale=_rank_scale(ranked)
    )
    sizes: list[int] = ranked["rows"].to_list()
    size = alt.Scale(type="log", domain=[min(sizes), max(sizes)], nice=True)
    decades = alt.Axis(format="~s", values=[10**power for power in range(10)])
    y = alt.Y("rows:Q", scale=size, title="training rows", axis=decades)
    ends = alt.Chart(inline(_rank_ends(ranked)))
    return alt.layer(
        base.mark_line(interpolate="step-after", color=PALETTE[0], strokeWidth=2).encode(x=x, y=y),
        ends.transform_filter("datum.is_largest")
        .mark_text(align="left", dx=8, fontSize=13, color=INK)
        .encode(x=x, y=y, text="text:N"),
        ends.transform_filter("!datum.is_largest")
        # The curve falls, so the space below and left of its end is free.
        .mark_text(align="right", dx=-20, dy=-7, fontSize=13, color=INK)
        .encode(x=x, y=y, text="text:N"),
    ).properties(width=WIDTH, height=130, title=f"{ranked.height:,} domains")


def _rank_ends(ranked: pl.DataFrame) -> Data:
    ends = ranked[[0, -1]].to_dicts()
    words = ("largest", "smallest")
    return [
        {**end, "text": f"{word} {end['rows']:,}", "is_largest": word == "largest"}
        for end, word in zip(ends, words, strict=True)
    ]


def _ctr_panel(ranked: pl.DataFrame, overall: float) -> Panel:
    base = alt.Chart(inline(ranked.to_dicts()))
    axis = alt.Axis(tickMinStep=1, grid=False, tickCount=6)
    x = alt.X("rank:Q", title="domains, largest first", axis=axis, scale=_rank_scale(ranked))
    scale = alt.Scale(domain=_ctr_ends(ranked), clamp=True, nice=True)
    y = alt.Y("ctr:Q", scale=scale, title="CTR", axis=alt.Axis(format=".2~%", tickCount=5))
    line = alt.Chart(inline([{"at": overall, "text": f"overall {100 * overall:.3g} %"}]))
    words = alt.Chart(inline([{"text": "band: 95 % of domains if all had the overall CTR"}]))
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
    """Return the range of the CTRs; the band may exceed it, since it is very wide for tiny domains."""
    ctr = ranked["ctr"].to_list()
    low, high = padded(min(ctr), max(ctr), 0.05)
    return [max(low, 0.0), min(high, 1.0)]


def _rank_scale(ranked: pl.DataFrame) -> alt.Scale:
    return alt.Scale(domain=[0, ranked.height + 1], nice=False)
