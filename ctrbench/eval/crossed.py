"""Uncertainty of differences between rows of a table, over training seeds and test users (spec: significance-8.8).

Seeds and users are crossed: every user is scored by the model of every seed. The variance of a mean over seeds is
V = V_seeds + V_users - V_seeds×users, at least the larger of the first two, with Satterthwaite's degrees of freedom.
All differences between rows follow from three matrices over rows, which are computed once per set of common seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctrbench.errors import DataError
from ctrbench.eval.metrics.base import Floats

Pair = tuple[int, int]
"""Indices of a row and of the row that it is compared with."""


@dataclass(frozen=True, kw_only=True)
class RowSample:
    """One metric of one row of a table: its value for each seed, and the influence of each cluster of test rows."""

    values: Mapping[int, float]
    """By seed."""
    influences: Mapping[int, Floats]
    """By seed, one number per cluster as in `influence`; empty if predictions are not available."""

    def select(self, seeds: Iterable[int]) -> RowSample:
        """Return the row with these seeds only."""
        return RowSample(
            values={seed: self.values[seed] for seed in seeds},
            influences={seed: self.influences[seed] for seed in seeds},
        )

    @property
    def is_complete(self) -> bool:
        """Whether the influence values of every seed are known."""
        return bool(self.values) and self.influences.keys() >= self.values.keys()


@dataclass(frozen=True, kw_only=True)
class VarianceParts:
    """Parts of the variance of one or several means over seeds, as arrays of one shape."""

    seeds: Floats
    """Sample variance over seeds, divided by their number."""
    users: Floats
    """Variance over users of the mean over seeds."""
    interaction: Floats
    """Part that the two have in common: variance of seeds within users, divided by the number of seeds."""
    num_seeds: int
    freedom_of_users: Floats
    """Degrees of freedom of the variance over users: their number if all have a similar influence, else fewer."""

    @property
    def total(self) -> Floats:
        """Variance over seeds and users: seeds + users - interaction, at least the larger of the first two."""
        largest = np.maximum(self.seeds, self.users)
        total: Floats = np.maximum(self.seeds + self.users - self.interaction, largest)
        return total

    @property
    def freedom(self) -> Floats:
        """Satterthwaite's degrees of freedom of the total, at least the smaller of those of its parts."""
        of_seeds, of_users = self.num_seeds - 1, self.freedom_of_users
        terms = (
            self.seeds**2 / of_seeds + self.users**2 / of_users + self.interaction**2 / (of_seeds * of_users)
        )
        total = self.total
        ratios = np.divide(total**2, terms, out=np.full(total.shape, np.inf), where=terms > 0)
        bounded: Floats = np.clip(ratios, np.minimum(of_seeds, of_users), of_seeds + of_users)
        return bounded


@dataclass(frozen=True, kw_only=True)
class CrossedRows:
    """Rows of a table over the seeds that all of them have: means over seeds and three covariance matrices."""

    seeds: tuple[int, ...]
    by_seed: Floats
    """Values, shape (M, seeds)."""
    influences: Floats
    """Influence of each cluster on the means over seeds, shape (M, clusters)."""
    interaction: Floats
    """Covariance of seeds within users, divided by the number of seeds, shape (M, M)."""

    @classmethod
    def of(cls, samples: Sequence[RowSample]) -> CrossedRows:
        """Compute the matrices of complete rows; raises `DataError` for fewer than two seeds or clusters."""
        seeds = common_seeds(samples)
        _check_clusters(samples, seeds)
        mean = np.mean([_stacked(samples, seed) for seed in seeds], axis=0)
        interaction = np.zeros((len(samples), len(samples)))
        for seed in seeds:
            deviation = _stacked(samples, seed) - mean
            interaction += deviation @ deviation.T
        return cls(
            seeds=seeds,
            by_seed=np.array([[sample.values[seed] for seed in seeds] for sample in samples]),
            influences=mean,
            interaction=interaction / (len(seeds) * (len(seeds) - 1)),
        )

    def differences(self, pairs: Sequence[Pair]) -> tuple[Floats, VarianceParts]:
        """Return mean and variance parts of the first row minus the second, for each pair."""
        first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        by_seed = self.by_seed[first] - self.by_seed[second]
        squares = np.square(self.influences[first] - self.influences[second])
        parts = VarianceParts(
            seeds=by_seed.var(axis=1, ddof=1) / len(self.seeds),
            users=squares.sum(axis=1),
            interaction=quadratic(self.interaction, first, second),
            num_seeds=len(self.seeds),
            freedom_of_users=_freedom_of_sums(squares),
        )
        return by_seed.mean(axis=1), parts


def common_seeds(samples: Sequence[RowSample]) -> tuple[int, ...]:
    """Return the seeds that all rows have, in ascending order."""
    return tuple(sorted(set.intersection(*(set(sample.values) for sample in samples))))


def quadratic(matrix: Floats, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> Floats:
    """Return the variance of the first minus the second of each pair, at least 0.

    `matrix` is a covariance matrix, or several along the leading axes.
    """
    diagonal = np.diagonal(matrix, axis1=-2, axis2=-1)
    variance: Floats = diagonal[..., first] + diagonal[..., second] - 2 * matrix[..., first, second]
    return np.maximum(variance, 0.0)


def _stacked(samples: Sequence[RowSample], seed: int) -> Floats:
    return np.array([sample.influences[seed] for sample in samples])


def _freedom_of_sums(squares: Floats) -> Floats:
    """Return the degrees of freedom of sums of squares, shape (sums, terms), from the variance of their terms.

    They are 2 V² / Var(V) for the sum V, at most one less than the number of terms.
    """
    num_terms = squares.shape[1]
    variances = num_terms * squares.var(axis=1)
    most = np.full(squares.shape[0], num_terms - 1.0)
    freedom = np.divide(2 * np.square(squares.sum(axis=1)), variances, out=most, where=variances > 0)
    bounded: Floats = np.clip(freedom, 1.0, num_terms - 1.0)
    return bounded


def _check_clusters(samples: Sequence[RowSample], seeds: Sequence[int]) -> None:
    sizes = {sample.influences[seed].size for sample in samples for seed in seeds}
    if len(seeds) < 2 or len(sizes) != 1 or min(sizes) < 2:
        raise DataError(
            "rows need two common seeds and the same clusters of test rows, at least two",
            value=f"{len(seeds)} seeds, {sorted(sizes)} clusters",
        )
