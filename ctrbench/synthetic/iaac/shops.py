"""Shops of the twin: brand, city, quality, and the scores of each day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.draws import Integers, assign_levels, assign_owners, draw, join_columns, scramble
from ctrbench.synthetic.iaac.marginals import Floats


@dataclass(frozen=True, kw_only=True)
class Shops:
    """Shops, ordered by share of rows."""

    ids: Integers
    shares: Floats
    brand: Integers
    city: Integers
    quality: Floats
    """Latent quality, on which reviews, star and scores depend with independent noise."""


def make_shops(number: int, rows: int, seed: int) -> Shops:
    """Draw the shops."""
    rng = draw(seed, "shops")
    shares = marginals.SHOPS.shares(number)
    return Shops(
        ids=scramble(np.arange(number), seed, "shops"),
        shares=shares,
        brand=assign_owners(shares, marginals.brand_shares(rows), rng),
        city=assign_owners(shares, marginals.city_shares(rows), rng),
        quality=rng.standard_normal(number),
    )


def shop_texts(shops: Shops, item_shop: Integers, item_shares: Floats, seed: int) -> pl.Series:
    """Return the text of the shop columns per shop and day; scores vary slightly between days."""
    rng = draw(seed, "scores")
    number, days = len(shops.ids), len(marginals.DAYS)
    # The rows of a shop are those of its items, so levels are assigned with the item shares as weights.
    weights = np.asarray(np.bincount(item_shop, item_shares, minlength=number), dtype=np.float64)
    size = rng.standard_normal(number)
    reviews = assign_levels(marginals.REVIEWS, size + 0.2 * rng.standard_normal(number), weights)
    stars = assign_levels(marginals.SHOP_STARS, size + 0.2 * rng.standard_normal(number), weights)
    columns: dict[str, Integers | pl.Series] = {
        "id": np.repeat(shops.ids, days),
        "reviews": np.repeat(reviews, days),
        "positive": _score_texts(shops, stars, 0.9935, 0.006, rng),
        "star": np.repeat(stars, days),
        "service": _score_texts(shops, stars, 0.971, 0.011, rng),
        "delivery": _score_texts(shops, stars, 0.970, 0.012, rng),
        "description": _score_texts(shops, stars, 0.973, 0.013, rng),
    }
    return join_columns(columns)


def _score_texts(
    shops: Shops, stars: Integers, mean: float, std: float, rng: np.random.Generator
) -> pl.Series:
    """Return the scores as text; small shops have the maximum score, some shops have none (-1)."""
    number, days = len(stars), len(marginals.DAYS)
    level = mean + std * (0.7 * shops.quality + 0.7 * rng.standard_normal(number))
    score = np.clip(level[:, None] + 0.0004 * rng.standard_normal((number, days)), 0.0, 1.0)
    score[(stars <= 5002) | (rng.random(number) < 0.02)] = 1.0
    score[(stars == 4999) | (rng.random(number) < 0.0003)] = -1.0
    return pl.Series(score.ravel()).cast(pl.String).str.strip_suffix(".0")
