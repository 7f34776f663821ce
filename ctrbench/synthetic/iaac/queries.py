"""Queries of the twin: predicted categories with their properties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.categories import NUM_TOPICS, topic_ids
from ctrbench.synthetic.iaac.draws import Integers, draw, draw_ranks, scramble


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries, grouped by main category and ordered by popularity within it; `first` and `number` per category."""

    first: Integers
    number: Integers
    text: pl.Series


def make_queries(number: int, rows: int, seed: int) -> Queries:
    """Draw queries with text "category:property,property;category:-1": one to six predicted categories."""
    rng = draw(seed, "queries")
    counts = np.maximum(4, np.round(number * marginals.shares(marginals.CATEGORIES))).astype(np.int64)
    topic = np.repeat(np.arange(len(counts)), counts)
    total = len(topic)
    ids, groups = topic_ids(seed), _draw_property_lists(rows, seed)
    step = 1 + 2 * rng.integers(0, NUM_TOPICS // 4, total)
    slots = []
    for slot in range(6):
        # Odd steps from the main category give six different categories; the root replaces the third.
        category = np.full(total, NUM_TOPICS) if slot == 2 else (topic + slot * step) % NUM_TOPICS
        has_properties = rng.random(total) < (0.6 if slot in (0, 2) else 0.25)
        text = pl.select(
            pl.concat_str(
                ids.gather(category),
                pl.when(pl.Series(has_properties))
                .then(groups.gather(rng.integers(0, len(groups), total)))
                .otherwise(pl.lit("-1")),
                separator=":",
            )
        ).to_series()
        is_present = (
            np.ones(total, dtype=bool) if slot == 0 else rng.random(total) < (0.9 if slot == 2 else 0.55)
        )
        slots.append(text.set(~pl.Series(is_present), None).alias(f"slot {slot}"))
    text = pl.select(pl.concat_str(slots, separator=";", ignore_nulls=True)).to_series()
    return Queries(first=np.cumsum(counts) - counts, number=counts, text=text)


def _draw_property_lists(rows: int, seed: int) -> pl.Series:
    """Return lists of one to five properties as text, joined by commas."""
    rng = draw(seed, "property groups")
    lengths = rng.integers(1, 6, 4000)
    size = marginals.PROPERTIES.size(rows)
    indices = draw_ranks(rng.random(int(lengths.sum())), size, marginals.PROPERTIES.exponent)
    frame = pl.DataFrame(
        {
            "group": np.repeat(np.arange(len(lengths)), lengths),
            "property": pl.Series(scramble(indices, seed, "properties")).cast(pl.String),
        }
    )
    return (
        frame.unique(maintain_order=True)
        .group_by("group", maintain_order=True)
        .agg(pl.col("property").str.join(","))["property"]
    )
