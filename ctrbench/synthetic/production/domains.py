"""The domains of a dataset: valid tuples of scenario, position and profile, and the traffic of each.

Choices that the specification leaves open: each scenario has 6 positions; the 40 reserved tuples are the next ones by
popularity. See spec: production-9.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctrbench.synthetic.philox import Floats, Integers, normal_table, uniform_table
from ctrbench.synthetic.production.distributions import domain_shares
from ctrbench.synthetic.production.spec import (
    NUM_PAIRS,
    NUM_POSITIONS,
    NUM_PROFILES,
    NUM_RESERVED,
    NUM_SCENARIOS,
    ProductionSpec,
)
from ctrbench.synthetic.production.streams import Stream

PROFILE_STD, POPULARITY_NOISE = 0.8, 0.35


@dataclass(frozen=True, kw_only=True)
class Domains:
    """Domains in descending order of traffic, then the reserved ones; feature values start at 0, before encoding."""

    scenario: Integers
    position: Integers
    profile: Integers
    share: Floats
    """Share of all rows except the 0.1 % of the last sixth in reserved tuples; 0 for reserved tuples."""
    is_reserved: np.ndarray


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


def make_domains(spec: ProductionSpec) -> Domains:
    """Choose the domains of a dataset by popularity, and assign their shares of the traffic."""
    pairs = np.repeat(valid_pairs(spec.seed), NUM_PROFILES, axis=0)
    scenario, position = pairs.T
    profile = np.tile(np.arange(NUM_PROFILES), NUM_PAIRS)
    order = np.argsort(-_log_popularity(spec.seed, scenario, position, profile), kind="stable")
    chosen = order[: spec.domains + NUM_RESERVED]
    share = np.zeros(len(chosen))
    share[: spec.domains] = domain_shares(spec.domains, long_tail=spec.long_tail)
    return Domains(
        scenario=scenario[chosen],
        position=position[chosen],
        profile=profile[chosen],
        share=share,
        is_reserved=np.arange(len(chosen)) >= spec.domains,
    )


def _log_popularity(seed: int, scenario: Integers, position: Integers, profile: Integers) -> Floats:
    profile_popularity = PROFILE_STD * normal_table(seed, Stream.PROFILE_WEIGHT, NUM_PROFILES, 1)[:, 0]
    noise = POPULARITY_NOISE * normal_table(seed, Stream.POPULARITY, len(scenario), 1)[:, 0]
    return np.asarray(
        -np.log(scenario + 1) - 0.6 * np.log(position + 1) + profile_popularity[profile] + noise
    )
