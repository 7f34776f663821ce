"""Parameters of the true logit: levels, drift, content vectors and the interactions of domain and content.

See spec: production-9.6; `truth` computes logits from them. Vectors of categories, cities, profiles and domains are
centered under the traffic, so that interactions have no main effects; levels of scenarios, positions, profiles and
tuples are standard normal under the traffic. Vectors of profiles are sums over gender, age and level, so that they
follow from few values with many rows each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctrbench.synthetic.philox import Floats, Integers, normal, normal_table, uniform_table
from ctrbench.synthetic.production.distributions import centered, sum_by_value, zipf
from ctrbench.synthetic.production.domains import Domains
from ctrbench.synthetic.production.spec import (
    NUM_AGES,
    NUM_CITIES,
    NUM_DEVICES,
    NUM_GENDERS,
    NUM_LEVELS,
    NUM_POSITIONS,
    NUM_PROFILES,
    NUM_SCENARIOS,
    ProductionSpec,
)
from ctrbench.synthetic.production.streams import Stream
from ctrbench.synthetic.production.traffic import CATEGORY_EXPONENT, CITY_EXPONENT, DEVICE_EXPONENT

LATENT, TASTE = 6, 4
"""Dimensions of the content vector of an item, and dimensions that the taste of users refers to."""
RELEVANT = 4
"""Content dimensions that enter the structured component in a scenario: 4 of 6."""
LEVEL_WEIGHTS = (0.62, 0.52, 0.5, 0.3)
"""Weights of scenario, position, profile and tuple in the level of a domain."""
FACTOR_WEIGHTS = (0.7, 0.5, 0.51)
"""Weights of scenario, position and profile in the structured vector of a domain."""
DECAYS = (0.85, 0.98)
DRIFT = 0.05
HIDDEN, TREES = 8, 48


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Parameters of the true logit.

    D domains including the reserved ones, C categories, P profiles, S scenarios, K = 6 content dimensions, H hidden
    units, T trees.
    """

    level_D: Floats
    """Level per domain, of variance 1 under the traffic."""
    additive_D: Floats
    """The part of the level that is a sum over domain features: all but the level of the tuple."""
    drift_SD: Floats
    """Drift per scenario and day (S, days), in logits."""
    structured_DK: Floats
    idiosyncratic_DK: Floats
    content_CK: Floats
    quality_C: Floats
    taste_PT: Floats
    """Taste per profile (P, 4)."""
    city_taste: Floats
    """Taste per city (cities, 4)."""
    city: Floats
    device: Floats
    decay_S: Floats
    mlp: tuple[Floats, Floats, Floats, Floats]
    """Domain side (D, H), content side (K, H), offsets (H), output weights (H) of the network."""
    tree: tuple[Integers, Integers, Floats]
    """Domain side of each tree (D, T), -1 where irrelevant; dimensions of the splits (T, 2); values (T, 4, 4)."""


def make_truth(spec: ProductionSpec, domains: Domains) -> Truth:
    """Draw the parameters of the true logit; null data have no drift."""
    seed, shares = spec.seed, zipf(spec.num_categories, CATEGORY_EXPONENT)
    structured = _structured_vectors(seed, domains)
    category = normal_table(seed, Stream.CATEGORY_QUALITY, spec.num_categories, 1)[:, 0]
    city = normal_table(seed, Stream.CITY_LEVEL, NUM_CITIES, 1)[:, 0]
    device = normal_table(seed, Stream.DEVICE_LEVEL, NUM_DEVICES, 1)[:, 0]
    cities = zipf(NUM_CITIES, CITY_EXPONENT)
    level, additive = _domain_levels(seed, domains, is_null=spec.null)
    return Truth(
        level_D=level,
        additive_D=additive,
        drift_SD=_draw_drift(seed, spec.days) * (not spec.null),
        structured_DK=structured,
        idiosyncratic_DK=normal_table(seed, Stream.IDIOSYNCRATIC, len(domains.share), LATENT),
        content_CK=_standardize_columns(
            normal_table(seed, Stream.CATEGORY_CONTENT, len(shares), LATENT), shares
        ),
        quality_C=centered(category, shares),
        taste_PT=_standardize_columns(
            _profile_vectors(seed, Stream.PROFILE_TASTE, TASTE),
            sum_by_value(domains.share, domains.profile, NUM_PROFILES),
        ),
        city_taste=_standardize_columns(normal_table(seed, Stream.CITY_TASTE, NUM_CITIES, TASTE), cities),
        city=centered(city, cities),
        device=centered(device, zipf(NUM_DEVICES, DEVICE_EXPONENT)),
        decay_S=DECAYS[0] + (DECAYS[1] - DECAYS[0]) * uniform_table(seed, Stream.DECAY, NUM_SCENARIOS),
        mlp=_make_network(seed, structured),
        tree=_make_trees(seed, structured),
    )


def _standardize_columns(table: Floats, shares: Floats) -> Floats:
    """Standardize each column to mean 0 and variance 1 under the shares."""
    return np.stack([centered(column, shares) for column in table.T], axis=1)


def _profile_vectors(seed: int, stream: Stream, size: int) -> Floats:
    """Return one vector per profile (P, size): the sum of vectors of its gender, age and level."""
    table = normal_table(seed, stream, NUM_GENDERS + NUM_AGES + NUM_LEVELS, size)
    gender, age, level = np.unravel_index(np.arange(NUM_PROFILES), (NUM_GENDERS, NUM_AGES, NUM_LEVELS))
    total = table[gender] + table[NUM_GENDERS + age] + table[NUM_GENDERS + NUM_AGES + level]
    return np.asarray(total / np.sqrt(3))


def _domain_levels(seed: int, domains: Domains, *, is_null: bool) -> tuple[Floats, Floats]:
    """Return the level of each domain, with mean 0 and variance 1 under the traffic, and its additive part.

    Levels of null data are additive: sums of one level per feature, including the three features of a profile.
    """
    scenario_weight, position_weight, profile_weight, tuple_weight = LEVEL_WEIGHTS
    parts = [
        (scenario_weight, Stream.LEVEL_SCENARIO, domains.scenario),
        (position_weight, Stream.LEVEL_POSITION, domains.position),
    ]
    if is_null:
        streams = (Stream.LEVEL_GENDER, Stream.LEVEL_AGE, Stream.LEVEL_LEVEL)
        values = np.unravel_index(domains.profile, (NUM_GENDERS, NUM_AGES, NUM_LEVELS))
        feature_weight = profile_weight / np.sqrt(3)
        parts += [(feature_weight, stream, value) for stream, value in zip(streams, values, strict=True)]
    else:
        parts.append((profile_weight, Stream.LEVEL_PROFILE, domains.profile))
    additive = np.zeros(len(domains.share))
    for weight, stream, value in parts:
        additive += weight * _level_per_domain(seed, stream, value, domains.share)
    additive -= additive @ domains.share
    if is_null:
        return centered(additive, domains.share), centered(additive, domains.share)
    tuples = _level_per_domain(seed, Stream.LEVEL_TUPLE, np.arange(len(domains.share)), domains.share)
    total = additive + tuple_weight * tuples
    std = np.sqrt((total - total @ domains.share) ** 2 @ domains.share)
    return centered(total, domains.share), additive / std


def _level_per_domain(seed: int, stream: Stream, value_D: Integers, share_D: Floats) -> Floats:
    """Return the level of each domain's feature value; levels are standard normal under the traffic.

    Values are arranged in random order as intervals of [0, 1) with their share as width; the level is the normal
    quantile of the midpoint. Independent normals would let one scenario with 43 % of the rows dominate the shape of the
    distribution. A value without traffic gets the mean width of the others, so that its level is not extreme.
    """
    order = np.argsort(uniform_table(seed, stream, int(value_D.max()) + 1), kind="stable")
    share = sum_by_value(share_D, value_D, int(value_D.max()) + 1)
    width = np.where(share > 0, share, share[share > 0].mean())[order]
    middle = np.empty(len(order))
    middle[order] = (np.cumsum(width) - width / 2) / width.sum()
    return np.array([normal(probability) for probability in middle])[value_D]


def _draw_drift(seed: int, days: int) -> Floats:
    """Return one random walk per scenario (scenarios, days), with value 0 on day 0."""
    steps = DRIFT * normal_table(seed, Stream.DRIFT, NUM_SCENARIOS, days)
    steps[:, 0] = 0.0
    return np.asarray(np.cumsum(steps, axis=1))


def _structured_vectors(seed: int, domains: Domains) -> Floats:
    """Return M_d (domains, K): factors of scenario, position and profile, 0 in irrelevant dimensions.

    Each dimension has mean 0 under the traffic of the domains where it is relevant, so that content has no main effect.
    """
    parts = (
        normal_table(seed, Stream.FACTOR_SCENARIO, NUM_SCENARIOS, LATENT)[domains.scenario],
        normal_table(seed, Stream.FACTOR_POSITION, NUM_POSITIONS, LATENT)[domains.position],
        _profile_vectors(seed, Stream.FACTOR_PROFILE, LATENT)[domains.profile],
    )
    total = np.tensordot(FACTOR_WEIGHTS, np.stack(parts), axes=1)
    rank = normal_table(seed, Stream.RELEVANCE, NUM_SCENARIOS, LATENT).argsort(axis=1).argsort(axis=1)
    is_relevant = (rank < RELEVANT)[domains.scenario]
    shares = domains.share[:, None] * is_relevant
    mean = (shares * total).sum(axis=0) / np.maximum(shares.sum(axis=0), np.finfo(float).tiny)
    return np.asarray((total - mean) * is_relevant)


def _make_network(seed: int, structured: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return a network with one hidden layer on domain vector and content; see `Truth.mlp`."""
    content = normal_table(seed, Stream.MLP_CONTENT, LATENT, HIDDEN) / np.sqrt(LATENT)
    domain_side = structured @ (normal_table(seed, Stream.MLP_DOMAIN, LATENT, HIDDEN) / np.sqrt(RELEVANT))
    offset = 0.5 + np.abs(normal_table(seed, Stream.MLP_OFFSET, HIDDEN, 1)[:, 0])
    return domain_side, content, offset, normal_table(seed, Stream.MLP_OUT, HIDDEN, 1)[:, 0]


def _make_trees(seed: int, structured: Floats) -> tuple[Integers, Integers, Floats]:
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
