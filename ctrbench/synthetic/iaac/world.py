"""Entities of a twin of IAAC: items, shops, users and queries, with their effects on purchases.

Entities are drawn once per seed and size; rows are then drawn from them. An item determines its category, properties,
brand, city, levels and shop; a user determines gender, age, occupation and star; a shop and a day determine the scores.
The true logit of a row is the level of the day plus seven components of fixed variances. Preferences of domains follow
an ideal-point model: each domain has a point in content space and prefers items close to it. No method in this package
has that form, so none is favoured by the formula of the generator.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.marginals import Floats, Levels

Integers = NDArray[np.int64]

VARIANCES = {
    "item": 0.28,
    "user": 0.03,
    "context": 0.05,
    "taste": 0.03,
    "structured": 0.16,
    "idiosyncratic": 0.03,
    "residual": 0.03,
}
"""Variances of the components of the logit, under the distribution of the rows. Item, user, context and taste (user ×
item) are shared by all domains; structured and idiosyncratic are domain × content, the first a function of gender, age
and star, the second independent per domain; the residual is noise that no feature explains."""

TASTE_SIZE = 4
CONTENT_SIZE = 3
NUM_CELLS = 4 * 9 * 12
"""Combinations of gender, age and star, including missing values."""
NUM_TOPICS = 40
"""Categories that a query can be predicted to have; the first ones are those of items."""
GENERAL_PROPERTIES = 200
"""Properties that occur in all categories."""


def draw(seed: int, stream: str, part: int = 0) -> np.random.Generator:
    """Return the random generator of a named stream; streams are independent of each other and of the call order."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), part])
    return np.random.Generator(np.random.Philox(entropy))


def scramble(index: NDArray[np.int64], seed: int, stream: str, bits: int = 63) -> Integers:
    """Map indices one-to-one to numbers of `bits` bits, in an order that looks random."""
    mask = np.uint64(2**bits - 1)
    offset, first, second = draw(seed, f"ids of {stream}").integers(0, 2**bits, 3, dtype=np.uint64)
    value = (index.astype(np.uint64) + offset) & mask
    for factor in (first | np.uint64(1), second | np.uint64(1)):
        value ^= value >> np.uint64(bits // 2 + 1)
        value = (value * factor) & mask
    value ^= value >> np.uint64(bits // 2 + 1)
    return np.asarray(value, dtype=np.int64)


def assign_levels(levels: Levels, score: Floats, weights: Floats) -> Integers:
    """Return one level per entity, increasing with the score, such that the weights of each level sum to its share."""
    order = np.argsort(score, kind="stable")
    middle = np.empty_like(score)
    middle[order] = np.cumsum(weights[order]) - weights[order] / 2
    indices = np.searchsorted(np.cumsum(marginals.shares(levels)), middle / weights.sum(), side="right")
    values = np.array(list(levels), dtype=np.int64)
    return np.asarray(values[np.minimum(indices, len(levels) - 1)], dtype=np.int64)


def draw_ranks(uniform: Floats, size: NDArray[np.int64] | int, exponent: float) -> Integers:
    """Draw ranks 0, 1, … below `size`, with probability approximately proportional to (rank + 1) ** -exponent."""
    power = 1 - exponent
    drawn = np.power((np.power(size + 1.0, power) - 1) * uniform + 1, 1 / power) - 1
    return np.asarray(np.minimum(drawn, size - 1.0), dtype=np.int64)


def select(uniform: Floats, cumulative: Floats) -> Integers:
    """Return the indices that uniforms select from cumulative shares."""
    indices = np.searchsorted(cumulative, uniform, side="right")
    return np.asarray(np.minimum(indices, len(cumulative) - 1), dtype=np.int64)


def assign_owners(weights: Floats, shares: Floats, rng: np.random.Generator) -> Integers:
    """Return one owner per entity, such that the weights of an owner's entities sum to approximately its share.

    If there are enough entities, every owner gets one, small owners mostly a light one, and the others are drawn in
    proportion to the shares still missing. Otherwise some owners have none.
    """
    owner = select(rng.random(len(weights)), np.cumsum(shares))
    if len(shares) > 0.7 * len(weights):
        return owner
    order = np.argsort(-weights * np.exp(0.5 * rng.standard_normal(len(weights))), kind="stable")
    first = order[np.sort(rng.permutation(len(weights))[: len(shares)])]
    lack = marginals.normalised(np.maximum(shares - weights[first], 0.0))
    owner = select(rng.random(len(weights)), np.cumsum(lack))
    owner[first] = np.arange(len(shares))
    return owner


@dataclass(frozen=True, kw_only=True)
class Users:
    """Users, ordered by activity."""

    ids: Integers
    gender: Integers
    age: Integers
    occupation: Integers
    star: Integers
    cell: Integers
    """Index of the combination of gender, age and star."""
    level: Floats
    """Propensity to buy, not standardised."""
    taste: Floats
    """(users, TASTE_SIZE)."""


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


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries, grouped by main category and ordered by popularity within it; `first` and `number` per category."""

    first: Integers
    number: Integers
    text: pl.Series


@dataclass(frozen=True, kw_only=True)
class World:
    """All entities and their true effects."""

    users: Users
    items: Items
    queries: Queries
    shop_days: pl.Series
    """Text of the shop columns of the raw file, for shop s and day d at index s * days + d."""
    pages: Floats
    hours: Floats
    """Effects of pages and hours."""
    structured: NDArray[np.float32]
    idiosyncratic: NDArray[np.float32]
    """Domain × content (cells, items), standardised under the distribution of the rows."""


def make_world(rows: int, seed: int) -> World:
    """Draw the entities for a number of rows."""
    shops = _make_shops(marginals.SHOPS.size(rows), rows, seed)
    items = _make_items(marginals.ITEMS.size(rows), shops, rows, seed)
    users = _make_users(marginals.USERS.size(rows), seed)
    rng = draw(seed, "context")
    hours = np.arange(24)
    return World(
        users=users,
        items=items,
        queries=_make_queries(marginals.QUERIES.size(rows), rows, seed),
        shop_days=_shop_texts(shops, items, seed),
        pages=-0.5 * np.log1p(np.arange(20)) + 0.2 * rng.standard_normal(20),
        hours=0.1 * np.sin(2 * np.pi * (hours - 16) / 24) + 0.05 * rng.standard_normal(24),
        structured=_standardise_interaction(_structured(items, seed), items),
        idiosyncratic=_standardise_interaction(_idiosyncratic(items, seed), items),
    )


# --- users ---------------------------------------------------------------------------------------------------------


def _draw_levels(levels: Levels, number: int, rng: np.random.Generator) -> Integers:
    return np.array(list(levels))[select(rng.random(number), np.cumsum(marginals.shares(levels)))]


def _make_users(number: int, seed: int) -> Users:
    rng = draw(seed, "users")
    gender = _draw_levels(marginals.GENDERS, number, rng)
    has_profile = rng.random(number) >= marginals.MISSING_PROFILES
    age, occupation, star = (
        np.where(has_profile, _draw_levels(levels, number, rng), -1)
        for levels in (marginals.AGES, marginals.OCCUPATIONS, marginals.STARS)
    )
    codes = (
        gender + 1,
        np.maximum(age - 999, 0),
        np.maximum(star - 2999, 0),
        np.maximum(occupation - 2001, 0),
    )
    effects = [rng.standard_normal(12)[code] for code in codes]
    profile = rng.standard_normal((9, TASTE_SIZE))[codes[1]] + rng.standard_normal((5, TASTE_SIZE))[codes[3]]
    return Users(
        ids=scramble(np.arange(number), seed, "users"),
        gender=gender,
        age=age,
        occupation=occupation,
        star=star,
        cell=codes[0] * 108 + codes[1] * 12 + codes[2],
        level=sum(effects, 0.6 * rng.standard_normal(number)),
        taste=0.6 * profile + 0.6 * rng.standard_normal((number, TASTE_SIZE)),
    )


def cell_shares() -> Floats:
    """Return the row share of each combination of gender, age and star."""
    table = np.zeros((9, 12))
    table[1:, 1:] = np.outer(marginals.shares(marginals.AGES), marginals.shares(marginals.STARS)) * (
        1 - marginals.MISSING_PROFILES
    )
    table[0, 0] = marginals.MISSING_PROFILES
    return np.outer(marginals.shares(marginals.GENDERS), table).ravel()


# --- shops ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Shops:
    ids: Integers
    shares: Floats
    brand: Integers
    city: Integers
    quality: Floats
    """Latent quality, on which reviews, star and scores depend with independent noise."""


def _make_shops(number: int, rows: int, seed: int) -> _Shops:
    rng = draw(seed, "shops")
    shares = marginals.SHOPS.shares(number)
    return _Shops(
        ids=scramble(np.arange(number), seed, "shops"),
        shares=shares,
        brand=assign_owners(shares, marginals.brand_shares(rows), rng),
        city=assign_owners(shares, marginals.city_shares(rows), rng),
        quality=rng.standard_normal(number),
    )


def _shop_texts(shops: _Shops, items: Items, seed: int) -> pl.Series:
    """Return the text of the shop columns per shop and day; scores vary slightly between days."""
    rng = draw(seed, "scores")
    number, days = len(shops.ids), len(marginals.DAYS)
    # The rows of a shop are those of its items, so levels are assigned with the item shares as weights.
    weights = np.asarray(np.bincount(items.shop, items.shares, minlength=number), dtype=np.float64)
    size = rng.standard_normal(number)
    reviews = assign_levels(marginals.REVIEWS, size + 0.2 * rng.standard_normal(number), weights)
    stars = assign_levels(marginals.SHOP_STARS, size + 0.2 * rng.standard_normal(number), weights)
    columns: dict[str, Integers | pl.Series] = {
        "id": np.repeat(shops.ids, days),
        "reviews": np.repeat(reviews, days),
        "positive": _scores(shops, stars, 0.9935, 0.006, rng),
        "star": np.repeat(stars, days),
        "service": _scores(shops, stars, 0.971, 0.011, rng),
        "delivery": _scores(shops, stars, 0.970, 0.012, rng),
        "description": _scores(shops, stars, 0.973, 0.013, rng),
    }
    return _join_columns(columns)


def _scores(shops: _Shops, stars: Integers, mean: float, std: float, rng: np.random.Generator) -> pl.Series:
    """Return the scores as text; small shops have the maximum score, some shops have none (-1)."""
    number, days = len(stars), len(marginals.DAYS)
    level = mean + std * (0.7 * shops.quality + 0.7 * rng.standard_normal(number))
    score = np.clip(level[:, None] + 0.0004 * rng.standard_normal((number, days)), 0.0, 1.0)
    score[(stars <= 5002) | (rng.random(number) < 0.02)] = 1.0
    score[(stars == 4999) | (rng.random(number) < 0.0003)] = -1.0
    return pl.Series(score.ravel()).cast(pl.String).str.strip_suffix(".0")


# --- items ---------------------------------------------------------------------------------------------------------


def _make_items(number: int, shops: _Shops, rows: int, seed: int) -> Items:
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
    properties = _item_properties(category, rows, seed)
    effects = _Effects(category=category, brand=brand, levels=levels, properties=properties, seed=seed)
    return Items(
        shares=weights,
        category=category,
        shop=shop,
        text=_item_texts(category, properties, levels, brand, shops.city[shop], seed),
        quality=effects.sum("quality", 1)[:, 0] + 0.5 * shops.quality[shop],
        taste=effects.sum("taste", TASTE_SIZE),
        content=effects.sum("content", CONTENT_SIZE),
    )


def _item_properties(category: Integers, rows: int, seed: int) -> pl.DataFrame:
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
    """Latent vectors of items: sums of effects of the observed features and of an effect per item."""

    category: Integers
    brand: Integers
    levels: dict[str, Integers]
    properties: pl.DataFrame
    seed: int

    def sum(self, name: str, size: int) -> Floats:
        """Return latent vectors (items, size)."""
        rng = draw(self.seed, f"effects on {name}")
        number = len(self.category)
        total = 0.25 * rng.standard_normal((number, size))
        total += 0.9 * rng.standard_normal((len(marginals.CATEGORIES), size))[self.category]
        total += 0.3 * rng.standard_normal((int(self.brand.max()) + 1, size))[self.brand]
        for level in self.levels.values():
            # Levels are ordinal: a linear effect, and a small deviation per level.
            slope, deviation = rng.standard_normal(size), rng.standard_normal((32, size))
            total += 0.45 * np.outer(level - level.mean(), slope) / level.std() + 0.15 * deviation[level + 1]
        return total + 0.25 * self._property_effects(rng, size)

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
    return _join_columns(columns)


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


# --- queries -------------------------------------------------------------------------------------------------------


def _make_queries(number: int, rows: int, seed: int) -> Queries:
    """Draw queries with text "category:property,property;category:-1": one to six predicted categories."""
    rng = draw(seed, "queries")
    counts = np.maximum(4, np.round(number * marginals.shares(marginals.CATEGORIES))).astype(np.int64)
    topic = np.repeat(np.arange(len(counts)), counts)
    total = len(topic)
    ids, groups = topic_ids(seed), _property_groups(rows, seed)
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


def _property_groups(rows: int, seed: int) -> pl.Series:
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


# --- domain × content ----------------------------------------------------------------------------------------------


def _structured(items: Items, seed: int) -> NDArray[np.float32]:
    """Return the proximity of items to the ideal point of each domain; points are additive in gender, age and star."""
    rng = draw(seed, "ideal points")
    points = (
        0.8 * rng.standard_normal((4, 1, 1, CONTENT_SIZE))
        + 0.7 * rng.standard_normal((1, 9, 1, CONTENT_SIZE))
        + 0.5 * rng.standard_normal((1, 1, 12, CONTENT_SIZE))
    ).reshape(NUM_CELLS, 1, CONTENT_SIZE)
    content = items.content / items.content.std(axis=0)
    proximity = np.empty((NUM_CELLS, len(content)), dtype=np.float32)
    for cell, point in enumerate(points):
        proximity[cell] = np.exp(-0.5 * ((content - point) ** 2).sum(axis=1) / CONTENT_SIZE)
    return proximity


def _idiosyncratic(items: Items, seed: int) -> NDArray[np.float32]:
    """Return an independent linear preference per domain."""
    preference = draw(seed, "idiosyncratic").standard_normal((NUM_CELLS, CONTENT_SIZE))
    return np.asarray(preference @ items.content.T, dtype=np.float32)


def _standardise_interaction(table: NDArray[np.float32], items: Items) -> NDArray[np.float32]:
    """Remove the main effects of domain and item, and scale the interaction to variance 1."""
    cells = cell_shares()
    table -= np.asarray(table @ items.shares, dtype=np.float32)[:, None]
    table -= np.asarray(cells @ table, dtype=np.float32)[None, :]
    table /= np.float32(np.sqrt(cells @ (np.square(table) @ items.shares)))
    return table


def _join_columns(columns: dict[str, Integers | pl.Series]) -> pl.Series:
    """Return the columns joined by spaces, as in the raw file."""
    series = [pl.Series(name, values) for name, values in columns.items()]
    return pl.select(pl.concat_str(series, separator=" ")).to_series()
