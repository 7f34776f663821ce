"""Deterministic distributions of the Production-scale data: time of day, traffic per domain, Zipf tables.

See spec: production-9.3 to production-9.5. The k-th domain has traffic ∝ k^-0.805; this exponent reproduces the
published sizes: 18 domains hold one fifth of the rows, 3,031 of 5,000 domains another. Quantiles of a table start from
a guide table, so that a search takes one or two steps at any table length; guides never change the result.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.optimize import brentq

from ctrbench.compiled import compiled
from ctrbench.synthetic.philox import Floats, Integers
from ctrbench.synthetic.production.spec import MAX_DOMAINS

DAY_SECONDS = 86_400
BUCKETS = 288
"""Intervals of five minutes per day."""
TRAFFIC_EXPONENT = 0.805
TAIL_FROM = 0.9
"""Fraction of the ranks at which the tail of the option `long_tail` begins."""
TAIL_ROWS, FULL_ROWS = 200, 2_200_000_000
NUM_BINS = 5


def traffic_before(hour: Floats) -> Floats:
    """Return the share of a day's traffic before an hour.

    The density at hour h is 1 + 0.6 sin(2π (h - 14) / 24) + 0.2 sin(4π (h - 20) / 24), with mean 1 over the day.
    """
    slow = 0.6 * 24 / (2 * np.pi) * (np.cos(2 * np.pi * (hour - 14) / 24) - np.cos(2 * np.pi * 14 / 24))
    fast = 0.2 * 24 / (4 * np.pi) * (np.cos(4 * np.pi * (hour - 20) / 24) - np.cos(4 * np.pi * 20 / 24))
    return np.asarray((hour - slow - fast) / 24)


@cache
def second_table() -> Floats:
    """Return the share of a day's traffic before each second, and before the end of the day (86,401)."""
    table: Floats = traffic_before(np.arange(DAY_SECONDS + 1) / 3600)
    table[0], table[-1] = 0.0, 1.0
    return table


def cumulative(weights: Floats) -> Floats:
    """Return the cumulative distribution of weights along the last axis; the last element is exactly 1."""
    table: Floats = np.cumsum(weights, axis=-1) / np.sum(weights, axis=-1, keepdims=True)
    table[..., -1] = 1.0
    return table


def guide(table: Floats, steps: int) -> Integers:
    """Return the guide table: for i / steps, i = 0, 1, …, the first index whose cumulative probability exceeds it."""
    return np.searchsorted(table, np.arange(steps) / steps, side="right").astype(np.int64)


@compiled
def quantile(u: float, table: Floats, guides: Integers) -> int:
    """Return the first index whose cumulative probability exceeds u."""
    index: int = guides[int(u * len(guides))]
    while table[index] <= u:
        index += 1
    return index


def zipf(size: int, exponent: float) -> Floats:
    """Return shares ∝ rank^-exponent."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum())


def sum_by_value(shares: Floats, values: Integers, size: int) -> Floats:
    """Return the sum of the shares per value 0, 1, …, size - 1."""
    return np.asarray(np.bincount(values, shares, minlength=size), dtype=np.float64)


def blocks(size: int, shares: Floats) -> Integers:
    """Partition [0, size) into one block per share, each with at least one element.

    Returns the first element of each block, and `size` as last element (shares + 1).
    """
    spare = size - len(shares)
    ends = np.floor(spare * np.cumsum(shares) / shares.sum() + 0.5).astype(np.int64)
    return np.concatenate([[0], ends + np.arange(1, len(shares) + 1)])


def centered(values: Floats, weights: Floats) -> Floats:
    """Shift the last axis to weighted mean 0, and scale the table to weighted mean square 1."""
    weights = weights / weights.sum()
    values = values - (values @ weights)[..., None]
    return np.asarray(values / np.sqrt(np.mean(values**2 @ weights)))


def domain_shares(domains: int, *, long_tail: bool) -> Floats:
    """Return the traffic share of each domain, in descending order."""
    if not long_tail:
        return zipf(domains, TRAFFIC_EXPONENT)
    head = bin_counts(zipf(domains, TRAFFIC_EXPONENT))[0]
    target = zipf(domains, TRAFFIC_EXPONENT)[:head].sum()

    def excess(exponent: float) -> float:
        return float(_long_tailed(domains, exponent)[:head].sum() - target)

    return _long_tailed(domains, brentq(excess, 0.4, 1.2))


def _long_tailed(domains: int, exponent: float) -> Floats:
    """Return Zipf shares whose last tenth decreases geometrically.

    The ratio of the smallest share to the mean share is the same for every number of domains.
    """
    first = int(TAIL_FROM * domains)
    shares = zipf(domains, exponent)
    steps = np.arange(1, domains - first + 1) / (domains - first)
    for _ in range(20):  # normalization changes the smallest share slightly, hence the iteration
        last = TAIL_ROWS * MAX_DOMAINS / FULL_ROWS / domains
        shares[first:] = shares[first - 1] * (last / shares[first - 1]) ** steps
        shares /= shares.sum()
    return shares


def bin_counts(shares: Floats) -> list[int]:
    """Return the number of domains per fifth of the traffic (spec: longtail-8.6).

    A domain belongs to the fifth that contains the midpoint of its share.
    """
    middle = np.cumsum(shares) - shares / 2
    index = np.minimum(NUM_BINS - 1, np.floor(NUM_BINS * middle / shares.sum())).astype(np.int64)
    return [int(count) for count in np.bincount(index, minlength=NUM_BINS)]


def scenario_mix(shares: Floats, phases: Floats) -> Floats:
    """Return the share of each scenario per bucket of the day (buckets, scenarios).

    Weights are w_s (1 + 0.5 sin(2π(h - φ_s)/24)). Iterative proportional fitting alternates between the traffic of the
    buckets and the shares of the scenarios, so that the share of a scenario over the whole day stays as given.
    """
    hour = (np.arange(BUCKETS) + 0.5) * 24 / BUCKETS
    traffic = np.diff(traffic_before(np.arange(BUCKETS + 1) * 24 / BUCKETS))
    mass = shares * (1 + 0.5 * np.sin(2 * np.pi * (hour[:, None] - phases) / 24))
    for _ in range(200):
        mass *= (traffic / mass.sum(axis=1))[:, None]
        mass *= np.divide(shares, mass.sum(axis=0), out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(mass / mass.sum(axis=1, keepdims=True))
