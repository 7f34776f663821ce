"""Comparison of methods over several datasets: mean ranks and the Bayesian signed-rank test (spec: significance-8.11).

One number per method and dataset enters, such as the mean AUC over seeds. Mean ranks with Nemenyi's critical difference
(Demšar, 2006) ignore the size of differences; the signed-rank test (Benavoli et al., 2017) gives the probability that a
difference is positive, negative or within the margin on another dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import f as f_distribution
from scipy.stats import rankdata, studentized_range

from ctrbench.errors import DataError
from ctrbench.eval.metrics.base import Floats
from ctrbench.eval.protocol import LEVEL, MARGIN

DRAWS = 50_000


@dataclass(frozen=True, kw_only=True)
class MeanRanks:
    """Mean ranks of methods over datasets, rank 1 for the best."""

    ranks: Floats
    critical_difference: float
    """Two methods whose mean ranks differ by less are not distinguished (Nemenyi)."""
    p: float
    """Of the test that all methods have equal ranks (Iman and Davenport)."""


@dataclass(frozen=True, kw_only=True)
class SignedRank:
    """Probabilities that the difference on another dataset is below, within or above the margin."""

    worse: float
    equivalent: float
    better: float


def mean_ranks(values: npt.ArrayLike, *, higher_is_better: bool, level: float = LEVEL) -> MeanRanks:
    """Rank the methods on each dataset; `values` has the shape (datasets, methods).

    Ties share the mean of their ranks. Raises `DataError` for fewer than two datasets or methods, or undefined values.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        raise DataError("mean ranks need values of two methods on two datasets or more", value=table.shape)
    num_datasets, num_methods = table.shape
    ranks = np.asarray(rankdata(-table if higher_is_better else table, axis=1), dtype=np.float64).mean(axis=0)
    return MeanRanks(
        ranks=ranks,
        critical_difference=critical_difference(num_methods, num_datasets, level=level),
        p=_iman_davenport(ranks, num_datasets),
    )


def critical_difference(num_methods: int, num_datasets: int, *, level: float = LEVEL) -> float:
    """Return the difference of mean ranks that Nemenyi's test finds, simultaneously for all pairs of methods."""
    quantile = float(studentized_range.ppf(1 - level, num_methods, np.inf)) / 2**0.5
    return quantile * float(np.sqrt(num_methods * (num_methods + 1) / (6 * num_datasets)))


def signed_rank(
    differences: Sequence[float] | Floats, *, margin: float = MARGIN, draws: int = DRAWS, seed: int = 0
) -> SignedRank:
    """Return the Bayesian signed-rank test of one difference per dataset.

    The prior is a Dirichlet process with a strength of 0.6 and its pseudo-observation within the margin. With
    posterior weights w of the datasets, the probability of `better` is that the weighted share of pairs whose sum
    exceeds twice the margin is the largest of the three. Raises `DataError` without differences.
    """
    values = np.concatenate(([0.0], np.asarray(differences, dtype=np.float64)))
    if values.size < 2 or not np.isfinite(values).all():
        raise DataError(
            "a signed-rank test needs one finite difference per dataset", value=values[1:].tolist()
        )
    strengths = np.concatenate(([0.6], np.ones(values.size - 1)))
    weights = np.random.default_rng(seed).dirichlet(strengths, draws)
    sums = values[:, None] + values[None, :]
    masses = [
        np.einsum("di,ij,dj->d", weights, mask.astype(np.float64), weights, optimize=True)
        for mask in (sums < -2 * margin, np.abs(sums) <= 2 * margin, sums > 2 * margin)
    ]
    largest = np.bincount(np.argmax(masses, axis=0), minlength=3) / draws
    worse, equivalent, better = (float(share) for share in largest)
    return SignedRank(worse=worse, equivalent=equivalent, better=better)


def _iman_davenport(ranks: Floats, num_datasets: int) -> float:
    num_methods = ranks.size
    friedman = (
        12 * num_datasets / (num_methods * (num_methods + 1)) * np.sum((ranks - (num_methods + 1) / 2) ** 2)
    )
    rest = num_datasets * (num_methods - 1) - friedman
    if rest <= 0:
        return 0.0
    statistic = (num_datasets - 1) * friedman / rest
    return float(f_distribution.sf(statistic, num_methods - 1, (num_methods - 1) * (num_datasets - 1)))
