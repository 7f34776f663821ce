"""Distributions that rows are drawn from: domains, users, categories, items and request features.

See spec: production-9.4 and production-9.5. A choice that the specification leaves open: numbers of users and items are
proportional to the traffic of their profile and category.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctrbench.synthetic.philox import Floats, Integers, normal_table, uniform_table
from ctrbench.synthetic.production.distributions import (
    blocks,
    cumulative,
    guide,
    scenario_mix,
    sum_by_value,
    zipf,
)
from ctrbench.synthetic.production.domains import Domains
from ctrbench.synthetic.production.spec import (
    NUM_CITIES,
    NUM_DEVICES,
    NUM_NETWORKS,
    NUM_PAGES,
    NUM_PROFILES,
    NUM_RESERVED,
    NUM_SCENARIOS,
    RESERVED_SHARE,
    ProductionSpec,
)
from ctrbench.synthetic.production.streams import Stream

CITY_EXPONENT, DEVICE_EXPONENT, PAGE_EXPONENT, NETWORK_EXPONENT = 1.0, 0.7, 1.0, 0.7
CATEGORY_EXPONENT, ITEM_EXPONENT, USER_EXPONENT = 1.0, 1.05, 0.6
TILT = 0.5
GUIDE_STEPS = 4096


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Distributions that rows are drawn from, as cumulative probabilities."""

    mix: Floats
    """Scenarios per five minutes of the day (buckets, scenarios)."""
    order: Integers
    """Domain indices, grouped by scenario."""
    scenario_start: Integers
    """First element of each scenario in `order`, and the end."""
    domain: Floats
    """Domains within their scenario, in that order."""
    user_start: Integers
    """First user of each profile, and the end."""
    category: Floats
    category_guide: Integers
    tilted: Floats
    """Categories of untargeted rows (scenarios, categories)."""
    tilted_guide: Integers
    item_start: Integers
    """First item of each category, and the end."""
    item_power: Floats
    """(items + 1)^(1 - exponent) per category, for drawing Zipf ranks."""
    city: Floats
    city_guide: Integers
    device: Floats
    page: Floats
    network: Floats


def make_traffic(spec: ProductionSpec, domains: Domains) -> Traffic:
    """Compute the distributions that rows are drawn from."""
    order = np.argsort(domains.scenario, kind="stable")
    order = order[~domains.is_reserved[order]]
    start = np.searchsorted(domains.scenario[order], np.arange(NUM_SCENARIOS + 1))
    shares = sum_by_value(domains.share, domains.scenario, NUM_SCENARIOS)
    phases = 24 * uniform_table(spec.seed, Stream.PHASE, NUM_SCENARIOS)
    category = zipf(spec.num_categories, CATEGORY_EXPONENT)
    tilted = cumulative(tilted_shares(spec))
    items = blocks(spec.num_items, category)
    # Reserved tuples add users in proportion to their share of all rows.
    late = np.where(domains.is_reserved, RESERVED_SHARE / 6 / NUM_RESERVED, 0.0)
    by_profile = sum_by_value(domains.share + late, domains.profile, NUM_PROFILES)
    city = cumulative(zipf(NUM_CITIES, CITY_EXPONENT))
    return Traffic(
        mix=cumulative(scenario_mix(shares, phases)),
        order=order,
        scenario_start=start,
        domain=_cumulative_within_blocks(domains.share[order], start),
        user_start=blocks(spec.num_users, by_profile),
        category=cumulative(category),
        category_guide=guide(cumulative(category), GUIDE_STEPS),
        tilted=tilted,
        tilted_guide=np.stack([guide(row, GUIDE_STEPS) for row in tilted]),
        item_start=items,
        item_power=(np.diff(items) + 1.0) ** (1 - ITEM_EXPONENT),
        city=city,
        city_guide=guide(city, GUIDE_STEPS),
        device=cumulative(zipf(NUM_DEVICES, DEVICE_EXPONENT)),
        page=cumulative(zipf(NUM_PAGES, PAGE_EXPONENT)),
        network=cumulative(zipf(NUM_NETWORKS, NETWORK_EXPONENT)),
    )


def tilted_shares(spec: ProductionSpec) -> Floats:
    """Return the shares of categories per scenario (scenarios, categories).

    In a scenario where a category is rare, more of its rows are targeted, so that they show more of the users that are
    interested in it. Null data have no tilt.
    """
    tilt = normal_table(spec.seed, Stream.SCENARIO_CATEGORY, NUM_SCENARIOS, spec.num_categories)
    strength = 0.0 if spec.null else TILT
    weights = zipf(spec.num_categories, CATEGORY_EXPONENT) * np.exp(strength * tilt)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _cumulative_within_blocks(shares: Floats, start: Integers) -> Floats:
    """Return the cumulative distribution within each block of shares; the last element of a block is 1."""
    parts = [cumulative(part) if len(part) else part for part in np.split(shares, start[1:-1])]
    return np.concatenate(parts)
