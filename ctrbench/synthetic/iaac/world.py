"""Entities of a twin of IAAC: items, shops, users and queries, with their effects on purchases.

Entities are drawn once per seed and size; rows are then drawn from them. An item determines its category, properties,
brand, city, levels and shop; a user determines gender, age, occupation and star; a shop and a day determine the scores.
The true logit of a row is the level of the day plus seven components of fixed variances. Preferences of domains follow
an ideal-point model: each domain has a point in content space and prefers items close to it. No method in this package
has that form, so none is favored by the formula of the generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.draws import draw
from ctrbench.synthetic.iaac.items import CONTENT_SIZE, Items, make_items
from ctrbench.synthetic.iaac.marginals import Floats
from ctrbench.synthetic.iaac.queries import Queries, make_queries
from ctrbench.synthetic.iaac.shops import make_shops, shop_texts
from ctrbench.synthetic.iaac.users import NUM_CELLS, Users, cell_shares, make_users

VARIANCES = {
    "item": 0.09,
    "user": 0.03,
    "context": 0.05,
    "taste": 0.01,
    "structured": 0.42,
    "idiosyncratic": 0.01,
    "residual": 0.03,
}
"""Variances of the components of the logit, under the distribution of the rows. Item, user, context and taste (user ×
item) are shared by all domains, and the first three are main effects; structured and idiosyncratic are domain ×
content, the first a function of gender, age and star, the second independent per domain; the residual is noise that no
feature explains."""
LEVELS, CEILING = "context", "idiosyncratic"
"""Last component that is a main effect, and last one that features explain, in the order of `VARIANCES`."""


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
    """Domain × content (cells, items), standardized under the distribution of the rows."""


def make_world(rows: int, seed: int) -> World:
    """Draw the entities for a number of rows."""
    shops = make_shops(marginals.SHOPS.size(rows), rows, seed)
    items = make_items(marginals.ITEMS.size(rows), shops, rows, seed)
    users = make_users(marginals.USERS.size(rows), seed)
    rng = draw(seed, "context")
    hours = np.arange(24)
    return World(
        users=users,
        items=items,
        queries=make_queries(marginals.QUERIES.size(rows), rows, seed),
        shop_days=shop_texts(shops, items.shop, items.shares, seed),
        pages=-0.5 * np.log1p(np.arange(20)) + 0.2 * rng.standard_normal(20),
        hours=0.1 * np.sin(2 * np.pi * (hours - 16) / 24) + 0.05 * rng.standard_normal(24),
        structured=_standardize_interaction(_structured_interaction(items, seed), items),
        idiosyncratic=_standardize_interaction(_idiosyncratic_interaction(items, seed), items),
    )


def _structured_interaction(items: Items, seed: int) -> NDArray[np.float32]:
    """Return the proximity of items to the ideal point of each domain; points are additive in gender, age and star."""
    rng = draw(seed, "ideal points")
    points = (
        0.9 * rng.standard_normal((4, 1, 1, CONTENT_SIZE))
        + 0.9 * rng.standard_normal((1, 9, 1, CONTENT_SIZE))
        + 0.3 * rng.standard_normal((1, 1, 12, CONTENT_SIZE))
    ).reshape(NUM_CELLS, 1, CONTENT_SIZE)
    content = items.content / items.content.std(axis=0)
    proximity = np.empty((NUM_CELLS, len(content)), dtype=np.float32)
    for cell, point in enumerate(points):
        proximity[cell] = np.exp(-0.25 * ((content - point) ** 2).sum(axis=1) / CONTENT_SIZE)
    return proximity


def _idiosyncratic_interaction(items: Items, seed: int) -> NDArray[np.float32]:
    """Return an independent linear preference per domain."""
    preference = draw(seed, "idiosyncratic").standard_normal((NUM_CELLS, CONTENT_SIZE))
    return np.asarray(preference @ items.content.T, dtype=np.float32)


def _standardize_interaction(table: NDArray[np.float32], items: Items) -> NDArray[np.float32]:
    """Remove the main effects of domain and item, and scale the interaction to variance 1."""
    cells = cell_shares()
    table -= np.asarray(table @ items.shares, dtype=np.float32)[:, None]
    table -= np.asarray(cells @ table, dtype=np.float32)[None, :]
    table /= np.float32(np.sqrt(cells @ (np.square(table) @ items.shares)))
    return table
