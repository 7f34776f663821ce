"""Compiled loops that generate the rows of the Production-scale data: time, domain, user, item and behaviors.

See spec: production-9.3 to production-9.5. Each loop passes once over a block of rows and fills arrays that later loops
read. Loops have no state: the values of a row depend only on its index. Choices that the specification leaves open:
user activity has density rank^-0.6; behaviors per day are log-normal with log sd 1; interests and their items follow
the global category distribution; the interest of a slot uses one word of a block. B rows of a block, K slots of a
sequence, P profiles, D domains. Indices of entities start at 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ctrbench.synthetic.philox import Floats, Integers, below, compiled, normal, permuted, uniforms, words
from ctrbench.synthetic.production.distributions import BUCKETS, DAY_SECONDS, quantile
from ctrbench.synthetic.production.spec import (
    NUM_BRANDS,
    NUM_CREATIVES,
    NUM_PRICES,
    NUM_RESERVED,
    RESERVED_SHARE,
)
from ctrbench.synthetic.production.streams import Stream
from ctrbench.synthetic.production.traffic import USER_EXPONENT

TARGETED = 0.35
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

_USER_POWER = 1 / (1 - USER_EXPONENT)
RATE_SHIFT = math.log(MEAN_RATE) - RATE_STD**2 / 2
_SECONDS, _BUCKET_SECONDS = DAY_SECONDS, DAY_SECONDS // BUCKETS
_L0, _L1, _L2 = STINTS
_DOMAIN, _USER_ROW, _ITEM_ROW = int(Stream.ROW_DOMAIN), int(Stream.ROW_USER), int(Stream.ROW_ITEM)
_USER, _PHASE, _INTEREST = int(Stream.USER), int(Stream.INTEREST_PHASE), int(Stream.INTEREST)
_BEHAVIOR, _BEHAVIOR_ITEM = int(Stream.BEHAVIOR), int(Stream.BEHAVIOR_ITEM)
_ITEM_FEATURES, _NEGATIVE = int(Stream.ITEM_FEATURES), int(Stream.BEHAVIOR_NEGATIVE)


class Draw(NamedTuple):
    """Random draw of a block: seed, first row, and number of the draw (0: data, 1: calibration)."""

    seed: int
    start: int
    number: int


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
def times(start: int, num_rows: int, days: int, table: Floats, day_B: Integers, second_B: Floats) -> None:
    """Write day and second of day of each row; row r is at the fraction (r + 1/2) / num_rows of the whole period."""
    steps = len(table) - 1
    for i in range(len(day_B)):
        passed = (2 * (start + i) + 1) * days
        day_B[i] = passed // (2 * num_rows)
        share = (passed % (2 * num_rows)) / (2 * num_rows)
        low, high = 0, steps
        if i > 0 and day_B[i] == day_B[i - 1]:
            # Rows are ordered by time, so the search starts at the second of the previous row.
            low = int(second_B[i - 1])
            high = min(steps, low + 2)
            while table[high] <= share:
                high = min(steps, 2 * high - low)
        while high - low > 1:
            middle = (low + high) // 2
            if table[middle] <= share:
                low = middle
            else:
                high = middle
        part = (share - table[low]) / (table[low + 1] - table[low])
        second_B[i] = low + min(part, 0.999999)


@compiled
def domains(
    start: int,
    seed: int,
    draw: int,
    day_B: Integers,
    second_B: Floats,
    reserved_from: int,
    mix: Floats,
    scenario_start: Integers,
    table: Floats,
    order: Integers,
    domain_B: Integers,
) -> None:
    """Write the domain of each row: draw the scenario by time of day, then the domain within the scenario."""
    for i in range(len(domain_B)):
        u, other = uniforms(seed, _DOMAIN, start + i, draw)
        if day_B[i] >= reserved_from and other < RESERVED_SHARE:
            domain_B[i] = len(order) + min(int(other / RESERVED_SHARE * NUM_RESERVED), NUM_RESERVED - 1)
            continue
        shares = mix[int(second_B[i]) // _BUCKET_SECONDS]
        scenario, previous = 0, 0.0
        while shares[scenario] <= u:
            previous = shares[scenario]
            scenario += 1
        within_scenario = (u - previous) / (shares[scenario] - previous)
        low, high = scenario_start[scenario], scenario_start[scenario + 1] - 1
        while low < high:
            middle = (low + high) // 2
            if table[middle] <= within_scenario:
                low = middle + 1
            else:
                high = middle
        domain_B[i] = order[low]


@compiled
def users(
    start: int,
    seed: int,
    draw: int,
    domain_B: Integers,
    profile_D: Integers,
    user_start: Integers,
    power_P: Floats,
    user_B: Integers,
) -> None:
    """Write the user of each row, drawn from the profile of the domain with density ∝ rank^-0.6."""
    for i in range(len(user_B)):
        u = uniforms(seed, _USER_ROW, start + i, draw)[0]
        profile = profile_D[domain_B[i]]
        first, end = user_start[profile], user_start[profile + 1]
        rank = int((1.0 + u * (power_P[profile] - 1.0)) ** _USER_POWER) - 1
        user_B[i] = first + min(rank, end - first - 1)


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
def items(
    draw: Draw,
    user_B: Integers,
    slots_B: Integers,
    scenario_B: Integers,
    catalog: Catalog,
    tilted: Floats,
    tilted_guide: Integers,
    category_B: Integers,
    item_B: Integers,
) -> None:
    """Write category and item of each row.

    The category of a targeted row is a current interest of the user; otherwise the scenario's distribution is used.
    """
    seed, start, number = draw
    category, category_guide, item_start, item_power = catalog
    for i in range(len(item_B)):
        choice, u = uniforms(seed, _ITEM_ROW, start + i, number)
        if choice < TARGETED:
            interest = interest_of(choice / TARGETED)
            stint = stint_of(phases_of(seed, user_B[i]), interest, slots_B[i] // EPOCH_SLOTS)
            chosen = category_of(seed, user_B[i], interest, stint, category, category_guide)
        else:
            chosen = quantile(u, tilted[scenario_B[i]], tilted_guide[scenario_B[i]])
        rank = uniforms(seed, _ITEM_ROW, start + i, number, 1)[0]
        first = item_start[chosen]
        category_B[i] = chosen
        item_B[i] = first + rank_of(rank, item_start[chosen + 1] - first, item_power[chosen])


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
def brand_of(seed: int, item: int, category: int) -> int:
    """Return the brand of an item; brands belong to one category each."""
    return category * NUM_BRANDS + below(words(seed, _ITEM_FEATURES, item)[0], NUM_BRANDS)


@compiled
def item_features(
    seed: int, item_B: Integers, category_B: Integers, num_shops: int, columns_4B: Integers
) -> None:
    """Write brand, shop, price level and creative type of each row's item."""
    for i in range(len(item_B)):
        w0, w1, w2, w3 = words(seed, _ITEM_FEATURES, item_B[i])
        columns_4B[0, i] = category_B[i] * NUM_BRANDS + below(w0, NUM_BRANDS)
        columns_4B[1, i] = below(w1, num_shops)
        columns_4B[2, i] = below(w2, NUM_PRICES)
        columns_4B[3, i] = below(w3, NUM_CREATIVES)


@compiled
def user_features(
    seed: int,
    stream: int,
    user_B: Integers,
    city: Floats,
    city_guide: Integers,
    device: Floats,
    columns_2B: Integers,
) -> None:
    """Write city and device of each row's user."""
    for i in range(len(user_B)):
        first, second = uniforms(seed, stream, user_B[i])
        columns_2B[0, i] = quantile(first, city, city_guide)
        columns_2B[1, i] = _search_quantile(second, device)


@compiled
def user_noise(
    seed: int, stream: int, user_B: Integers, sizes: tuple[int, int, int, int], columns_4B: Integers
) -> None:
    """Write four noise features of each row's user, which do not affect clicks."""
    for i in range(len(user_B)):
        w0, w1, w2, w3 = words(seed, stream, user_B[i])
        columns_4B[0, i] = below(w0, sizes[0])
        columns_4B[1, i] = below(w1, sizes[1])
        columns_4B[2, i] = below(w2, sizes[2])
        columns_4B[3, i] = below(w3, sizes[3])


@compiled
def contexts(
    start: int, seed: int, draw: int, stream: int, page: Floats, network: Floats, columns_2B: Integers
) -> None:
    """Write page index and network type of each row."""
    for i in range(columns_2B.shape[1]):
        first, second = uniforms(seed, stream, start + i, draw)
        columns_2B[0, i] = _search_quantile(first, page)
        columns_2B[1, i] = _search_quantile(second, network)


@compiled
def _search_quantile(u: float, table: Floats) -> int:
    index = 0
    while table[index] <= u:
        index += 1
    return index


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


@compiled
def permuted_ids(index_B: Integers, size: int, keys: np.ndarray, id_B: np.ndarray) -> None:
    """Write the permuted id of each index, counted from 1; index -1 gets id 0."""
    for i in range(len(index_B)):
        id_B[i] = permuted(index_B[i], size, keys) + 1 if index_B[i] >= 0 else 0
