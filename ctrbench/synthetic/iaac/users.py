"""Users of the twin: profiles, propensity to buy and taste."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.draws import Integers, draw, scramble, select
from ctrbench.synthetic.iaac.marginals import Floats, Levels

TASTE_SIZE = 2
NUM_CELLS = 4 * 9 * 12
"""Combinations of gender, age and star, including missing values."""


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
    """Propensity to buy, not standardized."""
    taste: Floats
    """(users, TASTE_SIZE)."""


def _draw_levels(levels: Levels, number: int, rng: np.random.Generator) -> Integers:
    return np.array(list(levels))[select(rng.random(number), np.cumsum(marginals.shares(levels)))]


def make_users(number: int, seed: int) -> Users:
    """Draw the users."""
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
        level=sum(effects, 0.3 * rng.standard_normal(number)),
        taste=0.6 * profile + 0.2 * rng.standard_normal((number, TASTE_SIZE)),
    )


def cell_shares() -> Floats:
    """Return the row share of each combination of gender, age and star."""
    table = np.zeros((9, 12))
    table[1:, 1:] = np.outer(marginals.shares(marginals.AGES), marginals.shares(marginals.STARS)) * (
        1 - marginals.MISSING_PROFILES
    )
    table[0, 0] = marginals.MISSING_PROFILES
    return np.outer(marginals.shares(marginals.GENDERS), table).ravel()
