"""AUC, GAUC, LogLoss and calibration of predictions, in float64 from logits (METHODS 8.1-8.4, 9.7).

Group, score and label of a row are packed into one 64-bit integer, so that a single sort of plain integers serves the
AUC of every group at once; ranks are then summed as integers, which makes AUC exact and independent of row order.
Undefined is None (NaN inside arrays), never 0 and never 0.5. No torch: predictions are judged long after training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
CEILING_METRIC = "ceiling_{metric}"
"""Name, among the oracle's metrics, of a metric of the learnable ceiling."""

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

    @classmethod
    def of(
        cls, pairs: GroupPairs, *, losses: npt.NDArray[np.number], clicks: npt.NDArray[np.number]
    ) -> GroupMetrics:
        """Return the metrics of groups whose pairs are counted, and losses and predicted clicks added up."""
        return cls(
            group=pairs.group,
            rows=pairs.rows,
            positives=pairs.positives,
            auc=pairs.auc(),
            logloss=_ratio(losses, pairs.rows),
            pcoc=_ratio(clicks, pairs.positives),
        )

    def select(self, keep: npt.NDArray[np.bool_]) -> GroupMetrics:
        """Return the groups marked in `keep`, such as those of one bin."""
        return GroupMetrics(**{name: values[keep] for name, values in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class GroupPairs:
    """Rows, positives and doubled wins of each group, as integers.

    A pair (positive, negative) of a group is won if its positive has the higher score, half won if they tie.
    """

    group: Ints
    rows: Ints
    positives: Ints
    wins: Ints
    """Doubled, so that ties are integers too."""

    def auc(self) -> Floats:
        """Return the share of pairs won; NaN if a class is missing."""
        return _ratio(self.wins, 2 * self.positives * (self.rows - self.positives))


@dataclass(frozen=True, kw_only=True)
class Gauc:
    """Impression-weighted mean of the groups' AUCs over groups with both classes; None where there is none.

    `coverage` is the share of all rows that lie in those groups; `unweighted` counts each group once.
    """

    value: float | None
    coverage: float
    unweighted: float | None


@dataclass(frozen=True, kw_only=True)
class GaucSums:
    """What a GAUC is made of; sums of parts that share no group add up."""

    weighted: float = 0.0
    """Sum of AUC times rows."""
    auc: float = 0.0
    groups: int = 0
    """Groups with both classes."""
    rows_known: int = 0
    """Rows in them."""
    rows: int = 0

    @classmethod
    def of(cls, group_auc: npt.ArrayLike, rows: npt.ArrayLike) -> GaucSums:
        """Add up groups of which AUC (NaN = undefined) and rows are known."""
        value, weight = np.asarray(group_auc, dtype=np.float64), np.asarray(rows, dtype=np.int64)
        known = ~np.isnan(value) & (weight > 0)
        value, share = value[known], weight[known]
        return cls(
            weighted=float(value @ share),
            auc=float(value.sum()),
            groups=value.size,
            rows_known=int(share.sum()),
            rows=int(weight.sum()),
        )

    def __add__(self, other: GaucSums) -> GaucSums:
        return GaucSums(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def gauc(self) -> Gauc:
        """Return the means; None where no group has both classes."""
        if not self.groups:
            return Gauc(value=None, coverage=0.0, unweighted=None)
        return Gauc(
            value=self.weighted / self.rows_known,
            coverage=self.rows_known / self.rows,
            unweighted=self.auc / self.groups,
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `overall` makes its entries of, in whatever way it was found."""

    rows: int
    positives: int
    loss: float
    """Mean over rows, NaN without any."""
    clicks: float
    """Sum of the predicted probabilities."""
    auc: float | None
    domains: GroupMetrics
    users: GaucSums | None = None
    """Of the rows of seen users; None where users are not known."""
    expected_loss: float | None = None
    """Mean against the true probability; None where it is not known."""

    def entries(self) -> dict[str, float | None]:
        """Return every metric of `names.Metric` that applies; None = undefined."""
        metrics = self._pooled() | _of_domains(self.domains)
        if self.users is not None:
            found = self.users.gauc()
            share_known = self.users.rows / max(self.rows, 1)
            metrics[Metric.USER_GAUC] = found.value
            metrics[Metric.USER_GAUC_COVERAGE] = found.coverage * share_known
        if self.expected_loss is not None:
            metrics[Metric.EXPECTED_LOGLOSS] = _defined(self.expected_loss)
        return metrics

    def _pooled(self) -> dict[str, float | None]:
        base_rate = self.positives / self.rows if self.rows else float("nan")
        base_entropy = float(entr(base_rate) + entr(1 - base_rate))
        return {
            Metric.LOGLOSS: _defined(self.loss),
            Metric.NE: self.loss / base_entropy if base_entropy > 0 else None,
            Metric.AUC: self.auc,
            Metric.PCOC: self.clicks / self.positives if self.positives else None,
        }


@dataclass(kw_only=True)
class ExpectedPairs:
    """Sums of the label-free AUC, over parts of the rows in ascending order of their true probability."""

    clicks: float = 0.0
    misses: float = 0.0
    wins: float = 0.0

    def add(self, probability: Floats) -> None:
        """Add rows that lie above (or tie with) all rows so far."""
        ordered = np.sort(probability)
        misses, clicks = 1 - ordered, float(ordered.sum())
        self.wins += float(ordered @ (np.cumsum(misses) - misses / 2)) + clicks * self.misses
        self.clicks += clicks
        self.misses += float(misses.sum())

    def auc(self) -> float | None:
        """Return the expected share of pairs in the right order; None without any."""
        pairs = self.clicks * self.misses
        return self.wins / pairs if pairs > 0 else None


def logloss(label: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Return the mean of softplus(s) - y s, without clipping; NaN without rows."""
    return _mean(cross_entropy(np.asarray(label), _finite(score)))


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


def group_pairs(group: npt.ArrayLike, label: npt.ArrayLike, score: npt.ArrayLike) -> GroupPairs:
    """Return the pairs of every group, won and in all, with one sort for all groups."""
    return _Rows.of(label, score).pairs(*_places(np.asarray(group)))


def gauc(groups: GroupMetrics) -> Gauc:
    """Return the GAUC of these groups; single-class groups leave numerator and denominator."""
    return weighted_auc(groups.auc, groups.rows)


def weighted_auc(group_auc: npt.ArrayLike, rows: npt.ArrayLike) -> Gauc:
    """Return the GAUC of groups of which only AUC (NaN = undefined) and rows are known."""
    return GaucSums.of(group_auc, rows).gauc()


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
    has_user, has_truth = (name in predictions.columns for name in (Column.USER, Column.PROBABILITY))
    return Summary(
        rows=rows.score.size,
        positives=int(np.count_nonzero(rows.is_positive)),
        loss=_mean(cross_entropy(rows.is_positive, rows.score)),
        clicks=float(click(rows.score).sum()),
        auc=rows.auc(),
        domains=rows.by_group(predictions[Column.DOMAIN].to_numpy()),
        users=_of_users(rows, predictions[Column.USER].to_numpy()) if has_user else None,
        expected_loss=_mean(cross_entropy(_probability(predictions), rows.score)) if has_truth else None,
    ).entries()


def oracle(predictions: pl.DataFrame) -> dict[str, float | None]:
    """Return the metrics of the true click probability: what no model can beat but by luck.

    The metrics of `overall` with logit(p) as score, plus `auc_expected` and `logloss_expected`, which need no labels:
    LL* = mean H(p), AUC* = sum of p_i (sum of 1 - p below i, and half of its own) / (sum of p · sum of 1 - p). Where
    the learnable ceiling p* is known, the metrics of logit(p*) too, each named `ceiling_...`.
    """
    probability = _probability(predictions)
    pairs = ExpectedPairs()
    pairs.add(probability)
    found = overall(_with_score(predictions, probability))
    found |= {AUC_EXPECTED: pairs.auc(), LOGLOSS_EXPECTED: _defined(_mean(entropy(probability)))}
    if Column.CEILING not in predictions.columns:
        return found
    return found | of_ceiling(overall(_with_score(predictions, _probability(predictions, Column.CEILING))))


def of_ceiling(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Name the learnable ceiling's metrics as they stand among the oracle's."""
    return {CEILING_METRIC.format(metric=name): value for name, value in metrics.items()}


def cross_entropy(target: npt.NDArray[np.generic], score: Scores) -> Floats:
    """Return softplus(s) - t s of each row, where the target t is a label or a probability."""
    wide = score.astype(np.float64, copy=False)
    losses: Floats = np.logaddexp(0.0, wide) - wide * target.astype(np.float64)
    return losses


def click(score: Scores) -> Floats:
    """Return the predicted probability of a click of each row."""
    probability: Floats = expit(score.astype(np.float64, copy=False))
    return probability


def entropy(probability: Floats) -> Floats:
    """Return the entropy of each row's label, in nats."""
    values: Floats = entr(probability) + entr(1 - probability)
    return values


def true_logit(probability: Floats) -> Floats:
    """Return the logit of a probability as a score, finite for 0 and 1 too."""
    values: Floats = np.clip(logit(probability), -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return values


def as_scores(values: npt.NDArray[np.generic]) -> Scores:
    """Return scores in float32 if they come so, else in float64."""
    kind = np.float32 if values.dtype == np.float32 else np.float64
    return values.astype(kind, copy=False)


def check_scores(num_bad: int | np.integer, num_rows: int) -> None:
    """Refuse scores of which some are not finite."""
    if num_bad:
        raise DataError(
            "scores are finite numbers",
            value=f"{num_bad:,} of {num_rows:,} are NaN or infinite",
            remedy="training diverged: lower the learning rate, or look for outliers in numeric fields",
        )


def check_probabilities(num_bad: int | np.integer, num_rows: int) -> None:
    """Refuse probabilities of which some are not between 0 and 1."""
    if num_bad:
        raise DataError("probabilities lie in [0, 1]", value=f"{num_bad:,} of {num_rows:,} do not")


def codes_of(score: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Return integers in the order of float32 scores, equal exactly where scores are equal."""
    single = score + np.float32(0)  # -0 and 0 are one score
    is_negative = single.view(np.int32) >> 31  # all ones or all zeros
    return single.view(np.uint32) ^ (is_negative.view(np.uint32) | np.uint32(2**31))


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
        pairs = self.pairs(np.zeros(1, dtype=np.int64))
        return _defined(pairs.auc()[0])

    def pairs(self, ids: Ints, place: Ints | None = None) -> GroupPairs:
        """Count the pairs of each group, given each row's place among the ids; all rows are one without."""
        if place is None:
            rows, positives = np.array([self.score.size]), np.array([np.count_nonzero(self.is_positive)])
        else:
            rows = np.bincount(place, minlength=ids.size)
            positives = np.bincount(place[self.is_positive], minlength=ids.size)
        keys = _sorted_keys(self.codes, self.is_positive, place)
        return GroupPairs(group=ids, rows=rows, positives=positives, wins=_wins(keys, rows, positives))

    def by_group(self, group: npt.NDArray[np.integer]) -> GroupMetrics:
        ids, place = _places(group)
        losses = cross_entropy(self.is_positive, self.score)
        return GroupMetrics.of(
            self.pairs(ids, place),
            losses=np.bincount(place, weights=losses, minlength=ids.size),
            clicks=np.bincount(place, weights=click(self.score), minlength=ids.size),
        )


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


def _of_users(rows: _Rows, user: npt.NDArray[np.integer]) -> GaucSums:
    is_known = user != UNSEEN
    by_user = rows.select(is_known).pairs(*_places(user[is_known]))
    return GaucSums.of(by_user.auc(), by_user.rows)


def _finite(score: npt.ArrayLike) -> Scores:
    """Return scores; raise unless all are finite."""
    values = as_scores(np.asarray(score))
    check_scores(values.size - np.count_nonzero(np.isfinite(values)), values.size)
    return values


def _probability(predictions: pl.DataFrame, column: str = Column.PROBABILITY) -> Floats:
    if column not in predictions.columns:
        raise DataError("these predictions hold no true click probability", remedy="use synthetic data")
    values = predictions[column].to_numpy().astype(np.float64)
    check_probabilities(values.size - np.count_nonzero((values >= 0) & (values <= 1)), values.size)
    return values


def _with_score(predictions: pl.DataFrame, probability: Floats) -> pl.DataFrame:
    """Return the predictions of who knows this probability."""
    return predictions.with_columns(pl.Series(Column.SCORE, true_logit(probability)))


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
    return codes_of(single).astype(np.uint64)


def _sorted_keys(codes: Keys, is_positive: npt.NDArray[np.bool_], place: Ints | None = None) -> Keys:
    """Return (group, score, label) of each row as one integer of 31 + 32 + 1 bits, sorted."""
    keys = codes if place is None else codes | (place.astype(np.uint64) << np.uint64(32))
    keys = keys << np.uint64(1)
    keys |= is_positive
    keys.sort()
    return keys


def _wins(keys: Keys, rows: Ints, positives: Ints) -> Ints:
    """Return twice the Mann-Whitney statistic of each group, from its sum of mid-ranks."""
    if keys.size == 0:
        return np.zeros(rows.size, dtype=np.int64)
    tied = keys >> np.uint64(1)
    run_start = np.flatnonzero(np.concatenate(([True], tied[1:] != tied[:-1])))
    run_end = np.append(run_start[1:], keys.size)
    num_positive = np.concatenate(([0], np.cumsum(keys & np.uint64(1), dtype=np.int64)))
    rank_sums = (num_positive[run_end] - num_positive[run_start]) * (run_start + run_end + 1)
    offset = np.cumsum(rows) - rows
    # All doubled, to stay with integers: mid-ranks have halves.
    ranks: Ints = np.add.reduceat(rank_sums, np.searchsorted(run_start, offset)) - 2 * offset * positives
    return ranks - positives * (positives + 1)


def _ratio(numerator: npt.NDArray[np.number], denominator: Ints) -> Floats:
    """Divide; NaN where the denominator is 0."""
    undefined = np.full(numerator.shape, np.nan)
    ratio: Floats = np.divide(numerator, denominator, out=undefined, where=denominator != 0)
    return ratio


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
