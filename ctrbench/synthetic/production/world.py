"""Tables of a Production-scale dataset, generated from its spec (spec: production-9.4 to production-9.6).

The tables are small: domains, categories, cities and their parameters. Users and items have no tables; they are
computed per row. Choices that the specification leaves open: each scenario has 6 positions; the 40 reserved tuples are
the next ones by popularity; numbers of users and items are proportional to the traffic of their profile and category;
latent tables of categories are centred under the category distribution, so that content does not change the level of a
domain; levels of scenarios, positions, profiles and tuples are standard normal under the traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ctrbench.synthetic.philox import (
    Floats,
    Integers,
    feistel_keys,
    normal,
    normal_table,
    permutation,
    uniform_table,
)
from ctrbench.synthetic.production.distributions import (
    blocks,
    centred,
    cumulative,
    domain_shares,
    guide,
    scenario_mix,
    zipf,
)
from ctrbench.synthetic.production.spec import (
    NUM_AGES,
    NUM_GENDERS,
    NUM_LEVELS,
    NUM_PAIRS,
    NUM_POSITIONS,
    NUM_PROFILES,
    NUM_RESERVED,
    NUM_SCENARIOS,
    RESERVED_SHARE,
    ProductionSpec,
)
from ctrbench.synthetic.production.streams import Stream

LATENT, TASTE = 16, 8
"""Dimensions of the content vector of an item, and dimensions that the taste of users refers to."""
RELEVANT = 10
"""Content dimensions that enter the structured component in a scenario: 10 of 16."""
NUM_CITIES, NUM_DEVICES = 400, 6
NOISE_SIZES = (5, 20, 80, 320)
NUM_BRANDS = 10
"""Brands per category; a brand belongs to one category."""
NUM_PRICES, NUM_CREATIVES = 10, 5
NUM_PAGES, NUM_NETWORKS = 10, 4
CITY_EXPONENT, DEVICE_EXPONENT, PAGE_EXPONENT, NETWORK_EXPONENT = 1.0, 0.7, 1.0, 0.7
CATEGORY_EXPONENT, ITEM_EXPONENT, USER_EXPONENT = 1.0, 1.05, 0.6
PROFILE_SPREAD, POPULARITY_NOISE, TILT = 0.8, 0.35, 0.5
LEVEL_WEIGHTS = (0.6, 0.5, 0.45, 0.43)
"""Weights of scenario, position, profile and tuple in the level of a domain."""
FACTOR_WEIGHTS = (0.7, 0.5, 0.51)
"""Weights of scenario, position and profile in the structured vector of a domain."""
DECAYS = (0.85, 0.98)
DRIFT = 0.05
GUIDE_STEPS = 4096
HIDDEN, TREES = 8, 48


@dataclass(frozen=True, kw_only=True)
class Domains:
    """Domains in descending order of traffic, then the reserved ones; feature values start at 0, before encoding."""

    scenario: Integers
    position: Integers
    profile: Integers
    share: Floats
    """Share of all rows except the 0.1 % of the last sixth in reserved tuples; 0 for reserved tuples."""
    is_reserved: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Ids:
    """Encoded ids per value of the small vocabularies, from 1 on; permutation keys for users, items and shops.

    Values of domain features that occur only in reserved tuples are encoded as 0, because training never sees them.
    """

    scenario: Integers
    position: Integers
    profile: Integers
    city: Integers
    device: Integers
    category: Integers
    user_keys: np.ndarray
    item_keys: np.ndarray
    shop_keys: np.ndarray


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


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Parameters of the true logit.

    D domains including the reserved ones, C categories, P profiles, S scenarios, K = 16 content dimensions, H hidden
    units, T trees.
    """

    level_D: Floats
    """Level per domain, of variance 1 under the traffic."""
    drift_SD: Floats
    """Drift per scenario and day (S, days), in logits."""
    structured_DK: Floats
    idiosyncratic_DK: Floats
    content_CK: Floats
    quality_C: Floats
    taste_PT: Floats
    """Taste per profile (P, 8)."""
    profile_category_PC: Floats
    city: Floats
    device: Floats
    decay_S: Floats
    mlp: tuple[Floats, Floats, Floats, Floats]
    """Domain side (D, H), content side (K, H), offsets (H), output weights (H) of the network."""
    tree: tuple[Integers, Integers, Floats]
    """Domain side of each tree (D, T), -1 where irrelevant; dimensions of the splits (T, 2); values (T, 4, 4)."""


@dataclass(frozen=True, kw_only=True)
class World:
    """All tables of a dataset."""

    spec: ProductionSpec
    domains: Domains
    ids: Ids
    traffic: Traffic
    truth: Truth


@lru_cache(maxsize=2)
def make_world(spec: ProductionSpec) -> World:
    """Generate the tables of a dataset; the last two results are cached."""
    domains = _make_domains(spec)
    traffic = _make_traffic(spec, domains)
    return World(
        spec=spec,
        domains=domains,
        ids=_make_ids(spec, domains),
        traffic=traffic,
        truth=_make_truth(spec, domains),
    )


# --- domains -------------------------------------------------------------------------------------------------------


def valid_pairs(seed: int) -> Integers:
    """Return the valid pairs (60, 2) of scenario and position.

    Each scenario has 6 positions, each position 3 or 4 scenarios: scenarios choose in turn among the positions with the
    fewest scenarios so far.
    """
    preference = uniform_table(seed, Stream.VALID_PAIR, NUM_SCENARIOS * NUM_POSITIONS)
    cost = preference.reshape(NUM_SCENARIOS, NUM_POSITIONS)
    pairs: list[tuple[int, int]] = []
    for turn in range(NUM_PAIRS):
        scenario = turn % NUM_SCENARIOS
        position = int(cost[scenario].argmin())
        pairs.append((scenario, position))
        cost[:, position] += 1.0
        cost[scenario, position] = np.inf
    return np.array(sorted(pairs), dtype=np.int64)


def _make_domains(spec: ProductionSpec) -> Domains:
    pairs = np.repeat(valid_pairs(spec.seed), NUM_PROFILES, axis=0)
    scenario, position = pairs.T
    profile = np.tile(np.arange(NUM_PROFILES), NUM_PAIRS)
    order = np.argsort(-_popularity(spec.seed, scenario, position, profile), kind="stable")
    kept = order[: spec.domains + NUM_RESERVED]
    share = np.zeros(len(kept))
    share[: spec.domains] = domain_shares(spec.domains, long_tail=spec.long_tail)
    return Domains(
        scenario=scenario[kept],
        position=position[kept],
        profile=profile[kept],
        share=share,
        is_reserved=np.arange(len(kept)) >= spec.domains,
    )


def _popularity(seed: int, scenario: Integers, position: Integers, profile: Integers) -> Floats:
    of_profile = PROFILE_SPREAD * normal_table(seed, Stream.PROFILE_WEIGHT, NUM_PROFILES, 1)[:, 0]
    noise = POPULARITY_NOISE * normal_table(seed, Stream.POPULARITY, len(scenario), 1)[:, 0]
    return np.asarray(-np.log(scenario + 1) - 0.6 * np.log(position + 1) + of_profile[profile] + noise)


# --- traffic -------------------------------------------------------------------------------------------------------


def _make_traffic(spec: ProductionSpec, domains: Domains) -> Traffic:
    order = np.argsort(domains.scenario, kind="stable")
    order = order[~domains.is_reserved[order]]
    start = np.searchsorted(domains.scenario[order], np.arange(NUM_SCENARIOS + 1))
    shares = _sum_by_value(domains.share, domains.scenario, NUM_SCENARIOS)
    phases = 24 * uniform_table(spec.seed, Stream.PHASE, NUM_SCENARIOS)
    category = zipf(spec.num_categories, CATEGORY_EXPONENT)
    tilted = cumulative(tilted_shares(spec))
    items = blocks(spec.num_items, category)
    # Reserved tuples add users in proportion to their share of all rows.
    late = np.where(domains.is_reserved, RESERVED_SHARE / 6 / NUM_RESERVED, 0.0)
    by_profile = _sum_by_value(domains.share + late, domains.profile, NUM_PROFILES)
    city = cumulative(zipf(NUM_CITIES, CITY_EXPONENT))
    return Traffic(
        mix=cumulative(scenario_mix(shares, phases)),
        order=order,
        scenario_start=start,
        domain=_within(domains.share[order], start),
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


def _sum_by_value(shares: Floats, values: Integers, size: int) -> Floats:
    return np.asarray(np.bincount(values, shares, minlength=size), dtype=np.float64)


def tilted_shares(spec: ProductionSpec) -> Floats:
    """Return the shares of categories per scenario (scenarios, categories).

    In a scenario where a category is rare, more of its rows are targeted and match behaviours. For models without
    behaviours, its click rate then depends on the scenario; strict null data therefore have no tilt.
    """
    tilt = normal_table(spec.seed, Stream.SCENARIO_CATEGORY, NUM_SCENARIOS, spec.num_categories)
    strength = 0.0 if spec.null == "strict" else TILT
    weights = zipf(spec.num_categories, CATEGORY_EXPONENT) * np.exp(strength * tilt)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _within(shares: Floats, start: Integers) -> Floats:
    """Return the cumulative distribution within each block of shares; the last element of a block is 1."""
    parts = [cumulative(part) if len(part) else part for part in np.split(shares, start[1:-1])]
    return np.concatenate(parts)


def _make_ids(spec: ProductionSpec, domains: Domains) -> Ids:
    def permuted_from_one(size: int, stream: Stream) -> Integers:
        return permutation(size, feistel_keys(spec.seed, stream)) + 1

    def encoded(ids: Integers, values_D: Integers) -> Integers:
        return np.where(np.isin(np.arange(len(ids)), values_D[~domains.is_reserved]), ids, 0)

    return Ids(
        scenario=encoded(permuted_from_one(NUM_SCENARIOS, Stream.ID_SCENARIO), domains.scenario),
        position=encoded(permuted_from_one(NUM_POSITIONS, Stream.ID_POSITION), domains.position),
        profile=encoded(np.arange(NUM_PROFILES) + 1, domains.profile),
        city=permuted_from_one(NUM_CITIES, Stream.ID_CITY),
        device=permuted_from_one(NUM_DEVICES, Stream.ID_DEVICE),
        category=permuted_from_one(spec.num_categories, Stream.ID_CATEGORY),
        user_keys=feistel_keys(spec.seed, Stream.ID_USER),
        item_keys=feistel_keys(spec.seed, Stream.ID_ITEM),
        shop_keys=feistel_keys(spec.seed, Stream.ID_SHOP),
    )


# --- truth ---------------------------------------------------------------------------------------------------------


def _make_truth(spec: ProductionSpec, domains: Domains) -> Truth:
    seed, shares = spec.seed, zipf(spec.num_categories, CATEGORY_EXPONENT)
    structured = _structured(seed, domains)
    taste = normal_table(seed, Stream.PROFILE_TASTE, NUM_PROFILES, TASTE)
    category = normal_table(seed, Stream.CATEGORY_QUALITY, spec.num_categories, 1)[:, 0]
    joined = centred(normal_table(seed, Stream.PROFILE_CATEGORY, NUM_PROFILES, spec.num_categories), shares)
    drift, decay = _drift(seed, spec.days), uniform_table(seed, Stream.DECAY, NUM_SCENARIOS)
    if spec.null == "strict":
        taste, joined, drift, decay = 0 * taste, 0 * joined, 0 * drift, np.full_like(decay, 0.5)
    city = normal_table(seed, Stream.CITY_LEVEL, NUM_CITIES, 1)[:, 0]
    device = normal_table(seed, Stream.DEVICE_LEVEL, NUM_DEVICES, 1)[:, 0]
    return Truth(
        level_D=_levels(seed, domains, is_additive=spec.null == "strict"),
        drift_SD=drift,
        structured_DK=structured,
        idiosyncratic_DK=normal_table(seed, Stream.IDIOSYNCRATIC, len(domains.share), LATENT),
        content_CK=_unit_columns(normal_table(seed, Stream.CATEGORY_CONTENT, len(shares), LATENT), shares),
        quality_C=centred(category, shares),
        taste_PT=taste,
        profile_category_PC=joined,
        city=centred(city, zipf(NUM_CITIES, CITY_EXPONENT)),
        device=centred(device, zipf(NUM_DEVICES, DEVICE_EXPONENT)),
        decay_S=DECAYS[0] + (DECAYS[1] - DECAYS[0]) * decay,
        mlp=_mlp(seed, structured),
        tree=_trees(seed, structured),
    )


def _unit_columns(table: Floats, shares: Floats) -> Floats:
    """Standardise each column to mean 0 and variance 1 under the shares."""
    return np.stack([centred(column, shares) for column in table.T], axis=1)


def _levels(seed: int, domains: Domains, *, is_additive: bool) -> Floats:
    """Return the level of each domain, with mean 0 and variance 1 under the traffic.

    Additive levels are sums of one level per feature, including the three features of a profile, without a level per
    tuple.
    """
    of_scenario, of_position, of_profile, of_tuple = LEVEL_WEIGHTS
    parts = [
        (of_scenario, Stream.LEVEL_SCENARIO, domains.scenario),
        (of_position, Stream.LEVEL_POSITION, domains.position),
    ]
    if is_additive:
        streams = (Stream.LEVEL_GENDER, Stream.LEVEL_AGE, Stream.LEVEL_LEVEL)
        values = np.unravel_index(domains.profile, (NUM_GENDERS, NUM_AGES, NUM_LEVELS))
        third = of_profile / np.sqrt(3)
        parts += [(third, stream, value) for stream, value in zip(streams, values, strict=True)]
    else:
        parts.append((of_profile, Stream.LEVEL_PROFILE, domains.profile))
        parts.append((of_tuple, Stream.LEVEL_TUPLE, np.arange(len(domains.share))))
    weights, scores = zip(
        *((weight, _normal_scores(seed, stream, value, domains.share)) for weight, stream, value in parts),
        strict=True,
    )
    return centred(np.asarray(weights) @ np.stack(scores), domains.share)


def _normal_scores(seed: int, stream: Stream, value_D: Integers, share_D: Floats) -> Floats:
    """Return the level of each domain's feature value; levels are standard normal under the traffic.

    Values are arranged in random order as intervals of [0, 1) with their share as width; the level is the normal
    quantile of the midpoint. Independent normals would let one scenario with 43 % of the rows dominate the shape of the
    distribution. A value without traffic gets the mean width of the others, so that its level is not extreme.
    """
    order = np.argsort(uniform_table(seed, stream, int(value_D.max()) + 1), kind="stable")
    share = _sum_by_value(share_D, value_D, int(value_D.max()) + 1)
    width = np.where(share > 0, share, share[share > 0].mean())[order]
    middle = np.empty(len(order))
    middle[order] = (np.cumsum(width) - width / 2) / width.sum()
    return np.array([normal(probability) for probability in middle])[value_D]


def _drift(seed: int, days: int) -> Floats:
    """Return one random walk per scenario (scenarios, days), with value 0 on day 0."""
    steps = DRIFT * normal_table(seed, Stream.DRIFT, NUM_SCENARIOS, days)
    steps[:, 0] = 0.0
    return np.asarray(np.cumsum(steps, axis=1))


def _structured(seed: int, domains: Domains) -> Floats:
    """Return M_d (domains, K): factors of scenario, position and profile, 0 in irrelevant dimensions."""
    parts = (
        normal_table(seed, Stream.FACTOR_SCENARIO, NUM_SCENARIOS, LATENT)[domains.scenario],
        normal_table(seed, Stream.FACTOR_POSITION, NUM_POSITIONS, LATENT)[domains.position],
        normal_table(seed, Stream.FACTOR_PROFILE, NUM_PROFILES, LATENT)[domains.profile],
    )
    total = np.tensordot(FACTOR_WEIGHTS, np.stack(parts), axes=1)
    rank = normal_table(seed, Stream.RELEVANCE, NUM_SCENARIOS, LATENT).argsort(axis=1).argsort(axis=1)
    return np.asarray(total * (rank < RELEVANT)[domains.scenario])


def _mlp(seed: int, structured: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    content = normal_table(seed, Stream.MLP_CONTENT, LATENT, HIDDEN) / np.sqrt(LATENT)
    of_domain = structured @ (normal_table(seed, Stream.MLP_DOMAIN, LATENT, HIDDEN) / np.sqrt(RELEVANT))
    offset = 0.5 + np.abs(normal_table(seed, Stream.MLP_OFFSET, HIDDEN, 1)[:, 0])
    return of_domain, content, offset, normal_table(seed, Stream.MLP_OUT, HIDDEN, 1)[:, 0]


def _trees(seed: int, structured: Floats) -> tuple[Integers, Integers, Floats]:
    """Return trees with two splits on the domain vector and two on the same dimensions of the content."""
    order = normal_table(seed, Stream.TREE_SPLIT, TREES, LATENT).argsort(axis=1)
    split = order[:, :2].astype(np.int64)
    first, second = structured[:, split[:, 0]], structured[:, split[:, 1]]
    side = 2 * (first > 0) + (second > 0)
    side[(first == 0) | (second == 0)] = -1
    value = normal_table(seed, Stream.TREE_VALUE, TREES, 16).reshape(TREES, 4, 4)
    value -= value.mean(axis=1, keepdims=True)
    value -= value.mean(axis=2, keepdims=True)
    return side.astype(np.int64), split, value
