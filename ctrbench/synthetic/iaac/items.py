"""Items of the twin: category, properties, brand, levels and shop, and their latent effects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.categories import category_lists
from ctrbench.synthetic.iaac.draws import (
    Integers,
    assign_levels,
    assign_owners,
    draw,
    draw_ranks,
    join_columns,
    scramble,
    select,
)
from ctrbench.synthetic.iaac.marginals import Floats
from ctrbench.synthetic.iaac.shops import Shops
from ctrbench.synthetic.iaac.users import TASTE_SIZE

CONTENT_SIZE = 1
GENERAL_PROPERTIES = 200
"""Properties that occur in all categories."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """Items, ordered by popularity."""

    shares: Floats
    category: Integers
    shop: Integers
    text: pl.Series
    """Text of the item columns of the raw file."""
    quality: Floats
    taste: Floats
    content: Floats
    """(items, CONTENT_SIZE)."""


def make_items(number: int, shops: Shops, rows: int, seed: int) -> Items:
    """Draw the items, their shops and their latent effects."""
    rng = draw(seed, "items")
    weights = marginals.ITEMS.shares(number)
    noise = {
        name: rng.standard_normal(number) for name in ("category", "size", "sales", "collected", "views")
    }
    category = assign_levels(marginals.CATEGORIES, noise["category"], weights)
    shop = assign_owners(weights, shops.shares, rng)
    price = rng.standard_normal(number) + 0.7 * rng.standard_normal(len(marginals.CATEGORIES))[category]
    levels = {"price": assign_levels(marginals.PRICES, price, weights)}
    for name, counts in (
        ("sales", marginals.SALES),
        ("collected", marginals.COLLECTED),
        ("views", marginals.VIEWS),
    ):
        levels[name] = assign_levels(counts, noise["size"] + 0.6 * noise[name], weights)
    others = select(rng.random(number), np.cumsum(marginals.brand_shares(rows)))
    brand = np.where(rng.random(number) < 0.8, shops.brand[shop], others)
    properties = _draw_item_properties(category, rows, seed)
    effects = _Effects(category=category, brand=brand, levels=levels, properties=properties, seed=seed)
    return Items(
        shares=weights,
        category=category,
        shop=shop,
        text=_item_texts(category, properties, levels, brand, shops.city[shop], seed),
        quality=effects.sum("quality", 1)[:, 0] + 0.3 * shops.quality[shop],
        taste=effects.sum("taste", TASTE_SIZE),
        content=effects.sum("content", CONTENT_SIZE),
    )


def _draw_item_properties(category: Integers, rows: int, seed: int) -> pl.DataFrame:
    """Return distinct rows (item, property), with general properties and those of the item's category."""
    rng = draw(seed, "properties")
    block = marginals.PROPERTIES.size(rows) // len(marginals.CATEGORIES)
    lengths = np.clip(rng.normal(38, 11, len(category)).round(), 4, 110).astype(np.int64)
    item = np.repeat(np.arange(len(category)), lengths)
    is_general = rng.random(len(item)) < 0.4
    uniform = rng.random(len(item))
    property_index = np.where(
        is_general,
        draw_ranks(uniform, GENERAL_PROPERTIES, marginals.PROPERTIES.exponent),
        GENERAL_PROPERTIES
        + block * category[item]
        + draw_ranks(uniform, block, marginals.PROPERTIES.exponent),
    )
    return pl.DataFrame({"item": item, "property": property_index}).unique(maintain_order=True)


@dataclass(frozen=True, kw_only=True)
class _Effects:
    """Latent vectors of items: sums of effects of the observed features and of a small effect per item.

    Categories and levels, with thousands of rows per value, have most of the variance; brands, properties and items,
    with few, have little, so that a model learns from 500,000 rows what its features tell.
    """

    category: Integers
    brand: Integers
    levels: dict[str, Integers]
    properties: pl.DataFrame
    seed: int

    def sum(self, name: str, size: int) -> Floats:
        """Return latent vectors (items, size)."""
        rng = draw(self.seed, f"effects on {name}")
        number = len(self.category)
        total = 0.1 * rng.standard_normal((number, size))
        total += 1.1 * rng.standard_normal((len(marginals.CATEGORIES), size))[self.category]
        total += 0.1 * rng.standard_normal((int(self.brand.max()) + 1, size))[self.brand]
        for level in self.levels.values():
            # Levels are ordinal: a linear effect, and a small deviation per level.
            slope, deviation = rng.standard_normal(size), rng.standard_normal((32, size))
            total += 0.4 * np.outer(level - level.mean(), slope) / level.std() + 0.15 * deviation[level + 1]
        return total + 0.1 * self._property_effects(rng, size)

    def _property_effects(self, rng: np.random.Generator, size: int) -> Floats:
        items, properties = (self.properties[name].to_numpy() for name in ("item", "property"))
        effects = rng.standard_normal((int(properties.max()) + 1, size))[properties]
        number = len(self.category)
        sums = [np.bincount(items, effects[:, column], minlength=number) for column in range(size)]
        return np.stack(sums, axis=1) / np.sqrt(np.bincount(items, minlength=number))[:, None]


def _item_texts(
    category: Integers,
    properties: pl.DataFrame,
    levels: dict[str, Integers],
    brand: Integers,
    city: Integers,
    seed: int,
) -> pl.Series:
    number = len(category)
    rng = draw(seed, "texts of items")
    brands = scramble(brand, seed, "brands")
    cities = scramble(city, seed, "cities")
    brands[rng.random(number) < marginals.UNKNOWN_BRANDS] = -1
    cities[rng.random(number) < marginals.UNKNOWN_CITIES] = -1
    indices = properties["property"].to_numpy()
    ids = properties.with_columns(
        pl.Series("property", scramble(indices, seed, "properties")).cast(pl.String)
    )
    joined = ids.group_by("item", maintain_order=True).agg(pl.col("property").str.join(";"))
    columns: dict[str, Integers | pl.Series] = {
        "id": scramble(np.arange(number), seed, "items"),
        "categories": category_lists(seed).gather(category),
        "properties": joined["property"],
        "brand": brands,
        "city": cities,
        **levels,
    }
    return join_columns(columns)
