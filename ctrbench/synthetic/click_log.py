"""Ids in the shape of a common CTR log, to measure speed and cost without a dataset.

A row has 23 fields of one id each, the domain first, with 200,808 ids in all. The ids of a field and the rows of a
domain follow power laws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FIELD_SIZES = (
    100_000, 50_000, 25_000, 12_000, 6_000, 3_000, 1_500, 1_000, 600, 400, 300,
    200, 150, 100, 80, 60, 40, 30, 20, 15, 8, 5,
)  # fmt: skip
"""Number of ids of each of the 22 fields other than the domain."""
DOMAINS = 300
"""Default number of domains."""
DOMAIN_EXPONENT = 0.805
"""The k-th largest domain has rows in proportion to k^-0.805, as on a large display-advertising platform."""
ID_EXPONENT = 1.0
"""The k-th most frequent id of a field has rows in proportion to 1 / k."""
BASE_RATE = 0.25
ROLES = {1: "user", 2: "item"}
"""Roles of fields by index, for methods that need them; all other fields are context."""


def field_sizes(embedding_rows: int | None = None, num_domains: int = DOMAINS) -> tuple[int, ...]:
    """Return the number of ids of each field, the domain first; `embedding_rows` scales the other fields."""
    if embedding_rows is None:
        return (num_domains, *FIELD_SIZES)
    factor = (embedding_rows - num_domains) / sum(FIELD_SIZES)
    return (num_domains, *(max(2, round(size * factor)) for size in FIELD_SIZES))


def synthetic_ids(rows: int, sizes: Sequence[int], seed: int) -> np.ndarray:
    """Draw ids (B, F), int32, from one power law per field; the first field is the domain."""
    ids_BF = np.empty((rows, len(sizes)), dtype=np.int32)
    for index, size in enumerate(sizes):
        exponent = DOMAIN_EXPONENT if index == 0 else ID_EXPONENT
        ids_BF[:, index] = _power_law(rows, size, exponent, np.random.default_rng([seed, index]))
    return ids_BF


def _power_law(rows: int, size: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Draw ids 1..size with probability in proportion to rank^-exponent; ranks are assigned to ids at random."""
    cumulative = np.cumsum(np.arange(1, size + 1) ** -exponent)
    rank = np.searchsorted(cumulative, rng.random(rows) * cumulative[-1], side="right")
    ids: np.ndarray = rng.permutation(size)[np.minimum(rank, size - 1)] + 1
    return ids
