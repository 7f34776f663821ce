"""Rows of the twin: day, time, user, item, query and page, drawn from the entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.draws import Integers, draw_ranks, select
from ctrbench.synthetic.iaac.marginals import DAYS, Day, Floats
from ctrbench.synthetic.iaac.world import World

Round = Literal[1, 2]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Drawn rows: time, user, item, query and page; entities as indices into the tables of the world."""

    day: Integers
    second: Integers
    """Second of the day."""
    user: Integers
    item: Integers
    query: Integers
    is_match: NDArray[np.bool_]
    """Whether the main category of the query is the category of the item."""
    page: Integers
    residual: Floats

    def __len__(self) -> int:
        return len(self.day)


def draw_rows(world: World, number: int, days: Floats, rng: np.random.Generator) -> Rows:
    """Draw rows; `days` holds the cumulative shares of the days."""
    day = select(rng.random(number), days)
    item = select(rng.random(number), np.cumsum(world.items.shares))
    is_match = rng.random(number) < 0.85
    other = rng.integers(0, len(world.queries.first), number)
    topic = np.where(is_match, world.items.category[item], other)
    rank = draw_ranks(rng.random(number), world.queries.number[topic], marginals.QUERIES.exponent)
    return Rows(
        day=day,
        second=_draw_seconds(day, rng),
        user=draw_ranks(rng.random(number), len(world.users.ids), marginals.USERS.exponent),
        item=item,
        query=world.queries.first[topic] + rank,
        is_match=is_match,
        page=select(rng.random(number), np.cumsum(marginals.shares(marginals.PAGES))),
        residual=rng.standard_normal(number),
    )


def _draw_seconds(day: Integers, rng: np.random.Generator) -> Integers:
    """Draw the second of the day from the distribution of hours; the last day of round 2 has morning hours only."""
    cumulative = np.cumsum(marginals.shares(marginals.HOURS))
    hours_share = np.array([cumulative[day.hours - 1] for day in DAYS])
    hour = select(rng.random(len(day)) * hours_share[day], cumulative)
    return hour * 3600 + rng.integers(0, 3600, len(day))


def cumulative_days(days: Sequence[Day], number: Round | None = None) -> Floats:
    """Return the cumulative shares of the days, of one round or of both."""
    weights = [float(day.rows) if number in (None, day.round) else 0.0 for day in days]
    return np.cumsum(marginals.normalized(np.array(weights)))
