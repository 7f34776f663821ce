"""Compiled loops that generate the rows of the Production-scale data: time, domain, user, item and their features.

See spec: production-9.3 to production-9.5. Each loop passes once over a block of rows and fills arrays that later loops
read. Loops have no state: the values of a row depend only on its index. A choice that the specification leaves open:
user activity has density rank^-0.6. B rows of a block, P profiles, D domains. Indices of entities start at 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ctrbench.compiled import compiled
from ctrbench.synthetic.philox import Floats, Integers, below, permuted, uniforms, words
from ctrbench.synthetic.production.behaviors import (
    EPOCH_SLOTS,
    Catalog,
    category_of,
    interest_of,
    phases_of,
    rank_of,
    stint_of,
)
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
_USER_POWER = 1 / (1 - USER_EXPONENT)
_BUCKET_SECONDS = DAY_SECONDS // BUCKETS
_DOMAIN, _USER_ROW, _ITEM_ROW = int(Stream.ROW_DOMAIN), int(Stream.ROW_USER), int(Stream.ROW_ITEM)
_ITEM_FEATURES = int(Stream.ITEM_FEATURES)


class Draw(NamedTuple):
    """Random draw of a block: seed, first row, and number of the draw (0: data, 1: calibration)."""

    seed: int
    start: int
    number: int


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
def permuted_ids(index_B: Integers, size: int, keys: np.ndarray, id_B: np.ndarray) -> None:
    """Write the permuted id of each index, counted from 1; index -1 gets id 0."""
    for i in range(len(index_B)):
        id_B[i] = permuted(index_B[i], size, keys) + 1 if index_B[i] >= 0 else 0
