"""Compiled loops that generate the behaviors of users: their number, and category and item of each one.

See spec: production-9.5. A behavior of a user is a slot; slots follow one another at the user's rate. Each slot belongs
to one of three interests of the user, and the category of an interest is constant within a stint of several epochs.
Choices that the specification leaves open: behaviors per day are log-normal with log sd 1; interests and their items
follow the global category distribution; the interest of a slot uses one word of a block. B rows of a block, K slots of
a sequence. Indices of entities start at 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ctrbench.compiled import compiled
from ctrbench.synthetic.philox import Floats, Integers, below, normal, uniforms, words
from ctrbench.synthetic.production.distributions import DAY_SECONDS, quantile
from ctrbench.synthetic.production.streams import Stream

FIRST_INTEREST, SECOND_INTEREST = 0.5, 0.8
"""Cumulative shares of the first two interests."""
STINTS = (2, 5, 12)
"""Epochs per stint of each interest; the category of an interest is constant within a stint."""
EPOCH_SLOTS = 16
"""Behaviors per epoch."""
HISTORY_DAYS = 60.0
MEAN_RATE, RATE_STD = 8.0, 1.0
"""Behaviors per day: mean, and standard deviation of the logarithm."""
STINT_RANGE = 1 << 30
RATE_SHIFT = math.log(MEAN_RATE) - RATE_STD**2 / 2
_L0, _L1, _L2 = STINTS
_BEHAVIOR, _BEHAVIOR_ITEM = int(Stream.BEHAVIOR), int(Stream.BEHAVIOR_ITEM)
_SECONDS = DAY_SECONDS
_USER, _PHASE, _INTEREST = int(Stream.USER), int(Stream.INTEREST_PHASE), int(Stream.INTEREST)
_NEGATIVE = int(Stream.BEHAVIOR_NEGATIVE)


class Catalog(NamedTuple):
    """Distributions of categories and items."""

    category: Floats
    """Global cumulative distribution of categories (C)."""
    category_guide: Integers
    item_start: Integers
    """First item of each category, and the end (C + 1)."""
    item_power: Floats
    """Constant of the Zipf distribution of items per category (C)."""


@compiled
def rates(seed: int, user_B: Integers, rate_B: Floats) -> None:
    """Write the logarithm of the behaviors per day of each row's user."""
    for i in range(len(user_B)):
        rate_B[i] = RATE_SHIFT + RATE_STD * normal(uniforms(seed, _USER, user_B[i])[0])


@compiled
def histories(rate_B: Floats, day_B: Integers, second_B: Floats, slots_B: Integers) -> None:
    """Write the number of behaviors of each row's user before the impression."""
    for i in range(len(rate_B)):
        slots_B[i] = int(math.exp(rate_B[i]) * (day_B[i] + second_B[i] / _SECONDS + HISTORY_DAYS))


@compiled
def phases_of(seed: int, user: int) -> tuple[int, int, int]:
    """Return the offset in epochs of each of the user's interests."""
    w0, w1, w2, _ = words(seed, _PHASE, user)
    return below(w0, _L0), below(w1, _L1), below(w2, _L2)


@compiled
def stint_of(phases: tuple[int, int, int], interest: int, epoch: int) -> int:
    """Return the index of the stint that contains an epoch."""
    if interest == 0:
        return (epoch + phases[0]) // _L0
    return (epoch + phases[1]) // _L1 if interest == 1 else (epoch + phases[2]) // _L2


@compiled
def category_of(
    seed: int, user: int, interest: int, stint: int, category: Floats, category_guide: Integers
) -> int:
    """Return the category of a stint, drawn from the global category distribution."""
    u = uniforms(seed, _INTEREST, user, STINT_RANGE * interest + stint)[0]
    return quantile(u, category, category_guide)


@compiled
def rank_of(u: float, size: int, power: float) -> int:
    """Return a rank below `size` from the continuous approximation of a Zipf distribution with exponent 1.05."""
    value = 1.0 + u * (power - 1.0)
    fourth = (value * value) * (value * value)
    sixteenth = (fourth * fourth) * (fourth * fourth)
    return min(int(1.0 / (sixteenth * fourth)) - 1, size - 1)


@compiled
def interest_of(u: float) -> int:
    """Return the interest (0, 1 or 2) that a uniform selects."""
    if u < FIRST_INTEREST:
        return 0
    return 1 if u < SECOND_INTEREST else 2


@compiled
def slot_interest(block: tuple[np.uint64, np.uint64, np.uint64, np.uint64], slot: int) -> int:
    """Return the interest of a behavior from its word of the block; four slots share a block."""
    i = slot % 4
    word = block[0] if i == 0 else block[1] if i == 1 else block[2] if i == 2 else block[3]
    return interest_of((np.float64(word) + 0.5) / 4294967296.0)


@compiled
def slot_words(seed: int, user: int, slot: int) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return the block of random words that contains the word of a slot."""
    return words(seed, _BEHAVIOR, user, slot // 4)


@compiled
def slot_item(
    seed: int, user: int, slot: int, category: int, item_start: Integers, item_power: Floats
) -> int:
    """Return the item of a behavior of the given category."""
    first: int = item_start[category]
    u = uniforms(seed, _BEHAVIOR_ITEM, user, slot)[0]
    return first + rank_of(u, item_start[category + 1] - first, item_power[category])


@compiled
def sequences(
    seed: int,
    user_B: Integers,
    slots_B: Integers,
    catalog: Catalog,
    category_BK: np.ndarray,
    item_BK: np.ndarray,
) -> None:
    """Write category and item of each row's last K behaviors, oldest first, padded with -1."""
    length = category_BK.shape[1]
    category, category_guide, item_start, item_power = catalog
    stints, chosen = np.empty(3, dtype=np.int64), np.empty(3, dtype=np.int64)
    for i in range(len(user_B)):
        user, slots = user_B[i], slots_B[i]
        first = max(0, slots - length)
        category_BK[i, slots - first :] = -1
        item_BK[i, slots - first :] = -1
        stints[:] = -1
        phases, block = phases_of(seed, user), slot_words(seed, user, first)
        for slot in range(first, slots):
            if slot % 4 == 0:
                block = slot_words(seed, user, slot)
            interest = slot_interest(block, slot)
            stint = stint_of(phases, interest, slot // EPOCH_SLOTS)
            if stint != stints[interest]:
                stints[interest] = stint
                chosen[interest] = category_of(seed, user, interest, stint, category, category_guide)
            category_BK[i, slot - first] = chosen[interest]
            item_BK[i, slot - first] = slot_item(seed, user, slot, chosen[interest], item_start, item_power)


@compiled
def negatives(seed: int, num_items: int, user_B: Integers, slots_B: Integers, item_BK: np.ndarray) -> None:
    """Write one uniformly drawn item per element of `sequences`; -1 where there is no behavior."""
    length = item_BK.shape[1]
    for i in range(len(user_B)):
        first = max(0, slots_B[i] - length)
        item_BK[i, slots_B[i] - first :] = -1
        for slot in range(first, slots_B[i]):
            item_BK[i, slot - first] = below(words(seed, _NEGATIVE, user_B[i], slot)[0], num_items)
