"""Critical value of the largest of several t-statistics, by simulation (max-T; spec: significance-8.9).

Differences between rows of a table depend on each other and have different degrees of freedom. Each statistic is
turned into a normal deviate, and the distribution of the largest one is simulated without any true difference: seeds
and users are drawn from the estimated covariances, and every variance is estimated again as from real runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri

from ctrbench.eval.crossed import CrossedRows, Pair, VarianceParts, quadratic
from ctrbench.eval.metrics.base import Floats

DRAWS = 20_000
"""Simulated tables per family of differences."""
_MAX_CORRELATION = 0.95
_KNOWN = 1e9
"""Degrees of freedom of a variance that is not estimated."""
_CHUNK = 2**18
"""Numbers per array of one chunk of draws."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Pairs of rows that are compared over the same seeds."""

    rows: CrossedRows
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class MaximumDistribution:
    """Simulated distribution of the largest absolute deviate of a family without true differences."""

    maxima: Floats
    """In ascending order."""

    def critical_deviate(self, level: float) -> float:
        """Return the deviate that the largest one exceeds with probability `level`; at least that of a single test."""
        index = int(np.ceil((1 - level) * (self.maxima.size + 1))) - 1
        return max(float(self.maxima[min(index, self.maxima.size - 1)]), float(ndtri(1 - level / 2)))

    def p_values(self, deviates: Floats) -> Floats:
        """Return the adjusted p of each deviate, at least that of a single test."""
        num_larger = self.maxima.size - np.searchsorted(self.maxima, deviates, side="left")
        adjusted: Floats = np.maximum((1 + num_larger) / (1 + self.maxima.size), 2 * ndtr(-deviates))
        return adjusted


def deviate(statistic: Floats, freedom: Floats) -> Floats:
    """Return the normal deviate of a t-statistic, at least 0, by Wallace's approximation (1959).

    >>> deviate(np.array([2.5706]), np.array([5.0])).round(2).tolist()  # two-sided p = 0.05
    [1.96]
    """
    scale = (8 * freedom + 1) / (8 * freedom + 3)
    deviates: Floats = scale * np.sqrt(freedom * np.log1p(np.square(statistic) / freedom))
    return deviates


def statistic(deviates: Floats, freedom: Floats) -> Floats:
    """Return the t-statistic of a normal deviate; the inverse of `deviate`."""
    scale = (8 * freedom + 1) / (8 * freedom + 3)
    statistics: Floats = np.sqrt(freedom * np.expm1(np.square(deviates / scale) / freedom))
    return statistics


def standardized(means: Floats, parts: VarianceParts) -> Floats:
    """Return the absolute deviate of each mean; 0 for a mean of 0 without variance, infinite for any other."""
    error = np.sqrt(parts.total)
    without_variance = np.where(means == 0, 0.0, np.inf)
    ratio = np.divide(means, error, out=without_variance, where=error > 0)
    return deviate(ratio, parts.freedom)


def simulate_maxima(blocks: Sequence[Block], *, draws: int = DRAWS, seed: int = 0) -> MaximumDistribution:
    """Simulate the largest deviate of all pairs of all blocks; blocks are independent of each other."""
    generator = np.random.default_rng(seed)
    maxima = np.zeros(draws)
    for block in blocks:
        largest = np.concatenate([chunk.max(axis=1) for chunk in _null_deviates(block, draws, generator)])
        maxima = np.maximum(maxima, largest)
    return MaximumDistribution(np.sort(maxima))


def _null_deviates(block: Block, draws: int, generator: np.random.Generator) -> Iterator[Floats]:
    """Yield the deviates of the pairs of a block, shape (draws of a chunk, pairs)."""
    first, second = np.array(block.pairs).T
    _, parts = block.rows.differences(block.pairs)
    # Simulated statistics use the true variance over users.
    certain = replace(parts, freedom_of_users=np.full(len(block.pairs), _KNOWN))
    num_rows, num_seeds = block.rows.by_seed.shape
    stds, correlation = _seed_model(block.rows.by_seed)
    factor = _user_factor(block.rows)
    size = max(_CHUNK // max(len(block.pairs), num_seeds * num_rows), 1)
    for start in range(0, draws, size):
        num = min(size, draws - start)
        shared, own = (generator.standard_normal((num, num_seeds, width)) for width in (1, num_rows))
        by_seed = stds * (correlation**0.5 * shared + (1 - correlation) ** 0.5 * own)
        means = by_seed.mean(axis=1)
        centered = by_seed - means[:, None]
        over_seeds = centered.transpose(0, 2, 1) @ centered / (num_seeds * (num_seeds - 1))
        means += generator.standard_normal((num, num_rows)) @ factor.T
        drawn = replace(certain, seeds=quadratic(over_seeds, first, second))
        yield standardized(means[:, first] - means[:, second], drawn)


def _seed_model(by_seed: Floats) -> tuple[Floats, float]:
    """Return the deviation of each row over seeds, and one correlation between rows with the same seed.

    A few seeds do not determine a correlation matrix of many rows: it would have the rank of their number, and the
    largest of many differences would look smaller than it is. Their mean correlation is well determined.
    """
    covariance = np.atleast_2d(np.cov(by_seed))
    stds = np.sqrt(np.diagonal(covariance))
    products = np.outer(stds, stds)
    is_off_diagonal = ~np.eye(stds.size, dtype=bool)
    total = products[is_off_diagonal].sum()
    correlation = covariance[is_off_diagonal].sum() / total if total > 0 else 0.0
    return stds, float(np.clip(correlation, 0.0, _MAX_CORRELATION))


def _user_factor(rows: CrossedRows) -> Floats:
    """Return a factor of the covariance over users without the interaction, up to what all rows have in common."""
    covariance = rows.influences @ rows.influences.T - rows.interaction
    centered = covariance - covariance.mean(axis=0)
    centered = centered - centered.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh((centered + centered.T) / 2)
    factor: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
    return factor
