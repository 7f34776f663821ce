"""Metrics of the true click probability, which no model exceeds but by luck (synthetic data only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import entr, logit

from ctrbench.eval.grouped import overall, probabilities
from ctrbench.eval.metrics.base import Floats, defined
from ctrbench.eval.metrics.registry import MetricSet
from ctrbench.names import Column

AUC_EXPECTED = "auc_expected"
"""AUC of the true probability in expectation over labels, computed from the probabilities alone."""
LOGLOSS_EXPECTED = "logloss_expected"
"""Log loss of the true probability in expectation over labels: the mean entropy."""
CEILING_METRIC = "ceiling_{metric}"
"""Name, among the oracle's metrics, of a metric of the learnable ceiling."""

_LARGEST_LOGIT = 700.0
"""Replaces the infinite logit of a true probability of 0 or 1; its loss is still 0 in float64."""


@dataclass(kw_only=True)
class ExpectedPairs:
    """Sums of the label-free AUC, over parts of the rows in ascending order of their true probability."""

    clicks: float = 0.0
    misses: float = 0.0
    wins: float = 0.0

    def add(self, probability: Floats) -> None:
        """Add rows whose probability is not below that of any row added before."""
        ordered = np.sort(probability)
        misses, clicks = 1 - ordered, float(ordered.sum())
        self.wins += float(ordered @ (np.cumsum(misses) - misses / 2)) + clicks * self.misses
        self.clicks += clicks
        self.misses += float(misses.sum())

    def auc(self) -> float | None:
        """Return the expected share of pairs in the right order; None without any pair."""
        pairs = self.clicks * self.misses
        return self.wins / pairs if pairs > 0 else None


def oracle(predictions: pl.DataFrame, *, metrics: MetricSet | None = None) -> dict[str, float | None]:
    """Return the metrics of the true click probability.

    These are the metrics of `overall` with logit(p) as score, and two that need no labels: `logloss_expected`, the mean
    of H(p), and `auc_expected`, the sum of p_i (sum of 1 - p over rows below i, and half of its own) over
    sum of p · sum of 1 - p. Where the learnable ceiling p* is known, the metrics of logit(p*) are added, each named
    `ceiling_...`.
    """
    probability = probabilities(predictions)
    pairs = ExpectedPairs()
    pairs.add(probability)
    values = overall(_with_logit_as_score(predictions, probability), metrics=metrics)
    mean_entropy = float(np.mean(entropy(probability))) if probability.size else float("nan")
    values |= {AUC_EXPECTED: pairs.auc(), LOGLOSS_EXPECTED: defined(mean_entropy)}
    if Column.CEILING not in predictions.columns:
        return values
    ceiling = probabilities(predictions, Column.CEILING)
    return values | ceiling_names(overall(_with_logit_as_score(predictions, ceiling), metrics=metrics))


def ceiling_names(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return metrics of the learnable ceiling under the names that they have among the oracle's metrics."""
    return {CEILING_METRIC.format(metric=name): value for name, value in metrics.items()}


def entropy(probability: Floats) -> Floats:
    """Return the entropy of each row's label, in nats."""
    values: Floats = entr(probability) + entr(1 - probability)
    return values


def true_logit(probability: Floats) -> Floats:
    """Return the logit of a probability as a score, finite for 0 and 1 too."""
    values: Floats = np.clip(logit(probability), -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return values


def _with_logit_as_score(predictions: pl.DataFrame, probability: Floats) -> pl.DataFrame:
    """Return the predictions with the logit of this probability as score."""
    return predictions.with_columns(pl.Series(Column.SCORE, true_logit(probability)))
