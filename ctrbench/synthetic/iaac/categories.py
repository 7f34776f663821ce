"""Categories of items and queries, as the text of the raw file."""

from __future__ import annotations

import numpy as np
import polars as pl

from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.draws import scramble

NUM_TOPICS = 40
"""Categories that a query can be predicted to have; the first ones are those of items."""


def topic_ids(seed: int) -> pl.Series:
    """Return the category ids as text; the root category is the last."""
    return pl.Series(scramble(np.arange(NUM_TOPICS + 1), seed, "categories")).cast(pl.String)


def category_lists(seed: int) -> pl.Series:
    """Return the category list of each category: the root, an inner category for two of them, and the category."""
    ids = topic_ids(seed).to_list()
    inner = dict.fromkeys(marginals.DEEP_CATEGORIES, f"{ids[NUM_TOPICS - 1]};")
    return pl.Series(
        [f"{ids[-1]};{inner.get(category, '')}{ids[category]}" for category in marginals.CATEGORIES]
    )
