"""AUC, GAUC, LogLoss and calibration of predictions, in float64 from logits (METHODS 8.1-8.4, 9.7).

Group, score and label of a row are packed into one 64-bit integer, so that a single sort of plain integers serves the
AUC of every group at once; ranks are then summed as integers, which makes AUC exact and independent of row order.
Undefined is None (NaN inside arrays), never 0 and never 0.5. No torch: predictions are judged long after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import entr, expit, logit

from ctrbench.errors import DataError
from ctrbench.names import UNSEEN, Column, Metric

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Scores = npt.NDArray[np.floating]

AUC_EXPECTED = "auc_expected"
"""AUC of the true probability, from the probabilities alone."""
LOGLOSS_EXPECTED = "logloss_expected"
"""LogLoss of the true probability, from the probabilities alone: the mean entropy."""

_LARGEST_LOGIT = 700.0
"""Stands for the infinite logit of a true probability of 0 or 1; its loss is 0 in float64 all the same."""


@dataclass(frozen=True, kw_only=True)
class GroupMetrics:
    """Metrics of each group of rows, as arrays of equal length, by ascending id; NaN = undefined.

    AUC needs both classes; PCOC (predicted over observed clicks) needs a positive.
    """

    group: Ints
    rows: Ints
    positives: Ints
    auc: Floats
    logloss: Floats
    pcoc: Floats

    def select(self, keep: npt.NDArray[np.bool_]) -> GroupMetrics:
        """Return the groups marked in `keep`, such as those of one bin."""
        return GroupMetrics(**{name: values[keep] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Gauc:
    """Impression-weighted mean of the groups' AUCs over groups with both classes; None where there is none.

    `coverage` is the share of all rows that lie in those groups; `unweighted` counts each group once.
    """

    value: float | None
    coverage: float
    unweighted: float | None


def logloss(label: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Return the mean of softplus(s) - y s, without clipping; NaN without rows."""
    return _mean(_cross_entropy(np.asarray(label), _finite(score)))


def auc(label: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Return the share of (positive, negative) pairs in the right order, ties counting half.

    None if a class is missing. Raises `DataError` for scores that are not finite.

    >>> auc([0, 1, 0, 1], [0.1, 0.1, 0.4, 0.8])
    0.625
    """
    return _Rows.of(label, score).auc()


def group_metrics(group: npt.ArrayLike, label: npt.ArrayLike, score: npt.ArrayLike) -> GroupMetrics:
    """Return AUC, LogLoss and PCOC of every group, with one sort for all groups.

    Raises `DataError` for scores that are not finite.
    """
    return _Rows.of(label, score).by_group(np.asarray(group))


def gauc(groups: GroupMetrics) -> Gauc:
    """Return the GAUC of these groups; single-class groups leave numerator and denominator."""
    return weighted_auc(groups.auc, groups.rows)


def weighted_auc(group_auc: npt.ArrayLike, rows: npt.ArrayLike) -> Gauc:
    """Return the GAUC of groups of which only AUC (NaN = undefined) and rows are known."""
    value, weight = np.asarray(group_auc, dtype=np.float64), np.asarray(rows, dtype=np.int64)
    known = ~np.isnan(value) & (weight > 0)
    if not known.any():
        return Gauc(value=None, coverage=0.0, unweighted=None)
    value, share = value[known], weight[known]
    return Gauc(
        value=float(value @ share / share.sum()),
        coverage=float(share.sum() / weight.sum()),
        unweighted=float(value.mean()),
    )


def average(runs: Sequence[GroupMetrics]) -> GroupMetrics:
    """Return the mean over runs (seeds) of each group's AUC, LogLoss and PCOC; all runs have the same test rows."""
    first = runs[0]
    for other in runs[1:]:
        check_same_groups(first, other)
    means = {
        name: np.mean([getattr(run, name) for run in runs], axis=0) for name in ("auc", "logloss", "pcoc")
    }
    return replace(first, **means)


def check_same_groups(first: GroupMetrics, second: GroupMetrics) -> None:
    """Raise `DataError` unless both were computed on the same test rows."""
    same = all(np.array_equal(getattr(first, n), getattr(second, n)) for n in ("group", "rows", "positives"))
    if not same:
        raise DataError(
            "per-domain metrics are compared on the same test rows",
            value=f"{first.rows.sum():,} rows in {first.group.size:,} domains against "
            f"{second.rows.sum():,} in {second.group.size:,}",
            remedy="compare runs on the same prepared data and the same domain set",
        )


def overall(predictions: pl.DataFrame, *, score: str = Column.SCORE) -> dict[str, float | None]:
    """Return every metric of `names.Metric` that applies to these predictions; None = undefined.

    Columns: label, domain and the score (a logit); with the user column also user-grouped metrics, with the
    probability column also the expected LogLoss. The unseen domain 0 is a group like any other: it is one domain to
    every model. Rows of the unseen user 0 are of many users: they stay out of user GAUC and count against its
    coverage. Raises `DataError` for scores that are not finite.
    """
    rows = _Rows.of(predictions[Column.LABEL].to_numpy(), predictions[score].to_numpy())
    metrics = _pooled(rows) | _of_domains(rows.by_group(predictions[Column.DOMAIN].to_numpy()))
    if Column.USER in predictions.columns:
        metrics |= _of_users(rows, predictions[Column.USER].to_numpy())
    if Column.PROBABILITY in predictions.columns:
        losses = _cross_entropy(_probability(predictions), rows.score)
        metrics[Metric.EXPECTED_LOGLOSS] = _defined(_mean(losses))
    return metrics


def oracle(predictions: pl.DataFrame) -> dict[str, float | None]:
    """Return the metrics of the true click probability: what no model can beat but by luck.

    The metrics of `overall` with logit(p) as score, plus `auc_expected` and `logloss_expected`, which need no labels:
    LL* = mean H(p), AUC* = sum of p_i (sum of 1 - p below i, and half of its own) / (sum of p · sum of 1 - p).
    """
    probability = _probability(predictions)
    true_logit = np.clip(logit(probability), -_LARGEST_LOGIT, _LARGEST_LOGIT)
    entropy = entr(probability) + entr(1 - probability)
    expected = {
        AUC_EXPECTED: _expected_auc(probability),
        LOGLOSS_EXPECTED: _defined(_mean(entropy)),
    }
    return overall(predictions.with_columns(pl.Series(Column.SCORE, true_logit))) | expected


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows to be judged, with the order of their scores found once for all ways of grouping."""

    is_positive: npt.NDArray[np.bool_]
    score: Scores
    codes: Keys

    @classmethod
    def of(cls, label: npt.ArrayLike, score: npt.ArrayLike) -> _Rows:
        values = _finite(score)
        return cls(is_positive=np.asarray(label).astype(bool), score=values, codes=_codes(values))

    def select(self, keep: npt.NDArray[np.bool_]) -> _Rows:
        return _Rows(is_positive=self.is_positive[keep], score=self.score[keep], codes=self.codes[keep])

    def auc(self) -> float | None:
        rows, positives = np.array([self.score.size]), np.array([np.count_nonzero(self.is_positive)])
        return _defined(_auc_of_groups(_sorted_keys(self.codes, self.is_positive), rows, positives)[0])

    def by_group(self, group: npt.NDArray[np.integer]) -> GroupMetrics:
        ids, place = _places(group)
        rows = np.bincount(place, minlength=ids.size)
        positives = np.bincount(place[self.is_positive], minlength=ids.size)
        keys = _sorted_keys(self.codes, self.is_positive, place)
        losses = _cross_entropy(self.is_positive, self.score)
        return GroupMetrics(
            group=ids,
            rows=rows,
            positives=positives,
            auc=_auc_of_groups(keys, rows, positives),
            logloss=np.bincount(place, weights=losses, minlength=ids.size) / rows,
            pcoc=_ratio(np.bincount(place, weights=_click(self.score), minlength=ids.size), positives),
        )


def _pooled(rows: _Rows) -> dict[str, float | None]:
    loss = _mean(_cross_entropy(rows.is_positive, rows.score))
    positives = np.count_nonzero(rows.is_positive)
    base_rate = _mean(rows.is_positive)
    base_entropy = float(entr(base_rate) + entr(1 - base_rate))
    return {
        Metric.LOGLOSS: _defined(loss),
        Metric.NE: loss / base_entropy if base_entropy > 0 else None,
        Metric.AUC: rows.auc(),
        Metric.PCOC: float(_click(rows.score).sum()) / positives if positives else None,
    }


def _of_domains(groups: GroupMetrics) -> dict[str, float | None]:
    by_domain = gauc(groups)
    has_pcoc = groups.positives > 0
    rows = groups.rows[has_pcoc]
    error = np.abs(groups.pcoc[has_pcoc] - 1)
    return {
        Metric.GAUC: by_domain.value,
        Metric.GAUC_COVERAGE: by_domain.coverage,
        Metric.GAUC_UNWEIGHTED: by_domain.unweighted,
        Metric.PCOC_ERROR: float(error @ rows / rows.sum()) if rows.size else None,
        Metric.PCOC_COVERAGE: float(rows.sum() / groups.rows.sum()) if rows.size else 0.0,
    }


def _of_users(rows: _Rows, user: npt.NDArray[np.integer]) -> dict[str, float | None]:
    is_known = user != UNSEEN
    by_user = gauc(rows.select(is_known).by_group(user[is_known]))
    share_known = np.count_nonzero(is_known) / max(user.size, 1)
    return {Metric.USER_GAUC: by_user.value, Metric.USER_GAUC_COVERAGE: by_user.coverage * share_known}


def _finite(score: npt.ArrayLike) -> Scores:
    """Return scores in float32 if they come so, else in float64; raise unless all are finite."""
    values = np.asarray(score)
    values = values if values.dtype == np.float32 else values.astype(np.float64, copy=False)
    num_bad = values.size - np.count_nonzero(np.isfinite(values))
    if num_bad:
        raise DataError(
            "scores are finite numbers",
            value=f"{num_bad:,} of {values.size:,} are NaN or infinite",
            remedy="training diverged: lower the learning rate, or look for outliers in numeric fields",
        )
    return values


def _probability(predictions: pl.DataFrame) -> Floats:
    if Column.PROBABILITY not in predictions.columns:
        raise DataError("these predictions hold no true click probability", remedy="use synthetic data")
    values = predictions[Column.PROBABILITY].to_numpy().astype(np.float64)
    num_bad = values.size - np.count_nonzero((values >= 0) & (values <= 1))
    if num_bad:
        raise DataError("probabilities lie in [0, 1]", value=f"{num_bad:,} of {values.size:,} do not")
    return values


def _cross_entropy(target: npt.NDArray[np.generic], score: Scores) -> Floats:
    """Per row: softplus(s) - t s, where the target t is a label or a probability."""
    wide = score.astype(np.float64, copy=False)
    losses: Floats = np.logaddexp(0.0, wide) - wide * target.astype(np.float64)
    return losses


def _click(score: Scores) -> Floats:
    probability: Floats = expit(score.astype(np.float64, copy=False))
    return probability


def _mean(values: npt.NDArray[np.bool_] | Floats) -> float:
    return float(np.mean(values, dtype=np.float64)) if values.size else float("nan")


def _places(group: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Return the ids present, sorted, and each row's place among them."""
    if group.size and group.min() >= 0 and group.max() < 2 * group.size + 2**16:  # dense: count, do not sort
        is_present = np.bincount(group) > 0
        return np.flatnonzero(is_present), (np.cumsum(is_present) - 1)[group]
    ids, place = np.unique(group, return_inverse=True)
    return ids.astype(np.int64), place.astype(np.int64)


def _codes(score: Scores) -> Keys:
    """Return integers below 2**32 in the order of the scores, equal exactly where scores are equal."""
    with np.errstate(over="ignore"):  # too large for float32 is seen in the next line
        single = score.astype(np.float32)
    if score.dtype != np.float32 and not np.array_equal(single, score):
        ranks: Keys = np.unique(score, return_inverse=True)[1].astype(np.uint64)
        return ranks
    single = single + np.float32(0)  # -0 and 0 are one score
    is_negative = single.view(np.int32) >> 31  # all ones or all zeros
    bits = single.view(np.uint32) ^ (is_negative.view(np.uint32) | np.uint32(2**31))
    return bits.astype(np.uint64)


def _sorted_keys(codes: Keys, is_positive: npt.NDArray[np.bool_], place: Ints | None = None) -> Keys:
    """Return (group, score, label) of each row as one integer of 31 + 32 + 1 bits, sorted."""
    keys = codes if place is None else codes | (place.astype(np.uint64) << np.uint64(32))
    keys = keys << np.uint64(1)
    keys |= is_positive
    keys.sort()
    return keys


def _auc_of_groups(keys: Keys, rows: Ints, positives: Ints) -> Floats:
    """Return the Mann-Whitney statistic of each group from its sum of mid-ranks; NaN if a class is missing."""
    if keys.size == 0:
        return np.full(rows.size, np.nan)
    tied = keys >> np.uint64(1)
    run_start = np.flatnonzero(np.concatenate(([True], tied[1:] != tied[:-1])))
    run_end = np.append(run_start[1:], keys.size)
    num_positive = np.concatenate(([0], np.cumsum(keys & np.uint64(1), dtype=np.int64)))
    rank_sums = (num_positive[run_end] - num_positive[run_start]) * (run_start + run_end + 1)
    offset = np.cumsum(rows) - rows
    # All doubled, to stay with integers: mid-ranks have halves.
    ranks = np.add.reduceat(rank_sums, np.searchsorted(run_start, offset)) - 2 * offset * positives
    wins = ranks - positives * (positives + 1)
    return _ratio(wins, 2 * positives * (rows - positives))


def _expected_auc(probability: Floats) -> float | None:
    ordered = np.sort(probability)
    misses = 1 - ordered
    pairs = float(ordered.sum() * misses.sum())
    wins = float(ordered @ (np.cumsum(misses) - misses / 2))
    return wins / pairs if pairs > 0 else None


def _ratio(numerator: npt.NDArray[np.number], denominator: Ints) -> Floats:
    """Divide; NaN where the denominator is 0."""
    undefined = np.full(numerator.shape, np.nan)
    ratio: Floats = np.divide(numerator, denominator, out=undefined, where=denominator != 0)
    return ratio


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
