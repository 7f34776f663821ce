"""Encoded ids of the small vocabularies, and the permutations of the ids of users, items and shops.

See spec: production-9.4. Users and items have no tables: their ids are computed per row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctrbench.synthetic.philox import Integers, feistel_keys, permutation
from ctrbench.synthetic.production.domains import Domains
from ctrbench.synthetic.production.spec import (
    NUM_CITIES,
    NUM_DEVICES,
    NUM_POSITIONS,
    NUM_PROFILES,
    NUM_SCENARIOS,
    ProductionSpec,
)
from ctrbench.synthetic.production.streams import Stream


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


def make_ids(spec: ProductionSpec, domains: Domains) -> Ids:
    """Draw the permutations of all ids."""

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
