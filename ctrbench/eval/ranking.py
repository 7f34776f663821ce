"""Ranks of scores within groups, by one sort of integers.

Group, score and label of a row are packed into one 64-bit integer, so that a single sort counts the ordered pairs of
every group at once. Ranks are summed as integers, which makes AUC exact and independent of the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctrbench.errors import DataError
from ctrbench.eval.metrics.base import (
    Floats,
    Groups,
    Ints,
    ScoredRows,
    Scores,
    Term,
    evaluate_term,
    sums_by_index,
)

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class RankedRows:
    """Rows with the order of their scores, which is determined once for all groupings."""

    rows: ScoredRows
    codes: Keys
    """Integers below 2**32 in the order of the scores, equal where scores are equal."""

    @classmethod
    def of(
        cls, label: npt.ArrayLike, score: npt.ArrayLike, *, probability: Floats | None = None
    ) -> RankedRows:
        """Rank rows by score. Raises `DataError` for scores that are not finite."""
        values = as_scores(np.asarray(score))
        is_positive = np.asarray(label).astype(bool)
        return cls.from_rows(ScoredRows(is_positive=is_positive, score=values, probability=probability))

    @classmethod
    def from_rows(cls, rows: ScoredRows) -> RankedRows:
        """Rank rows by score. Raises `DataError` for scores that are not finite."""
        check_scores(rows.score.size - np.count_nonzero(np.isfinite(rows.score)), rows.score.size)
        return cls(rows=rows, codes=_sortable_codes(rows.score))

    def select(self, is_selected: npt.NDArray[np.bool_]) -> RankedRows:
        """Return the rows marked in `is_selected`."""
        return RankedRows(rows=self.rows.select(is_selected), codes=self.codes[is_selected])

    def pooled(self, terms: Iterable[Term] = ()) -> Groups:
        """Return all rows as one group, with id 0 and the sums of these terms."""
        is_positive = self.rows.is_positive
        rows, positives = np.array([is_positive.size]), np.array([np.count_nonzero(is_positive)])
        wins = _count_wins(_sorted_keys(self.codes, is_positive), rows, positives)
        sums = {term: np.array([evaluate_term(term, self.rows).sum()]) for term in terms}
        return Groups(group=np.zeros(1, dtype=np.int64), rows=rows, positives=positives, wins=wins, sums=sums)

    def grouped(self, group: npt.NDArray[np.integer], terms: Iterable[Term] = ()) -> Groups:
        """Return the groups that are present among the rows, with the sums of these terms."""
        is_positive = self.rows.is_positive
        ids, index = _group_indices(group)
        rows = np.bincount(index, minlength=ids.size)
        positives = np.bincount(index[is_positive], minlength=ids.size)
        wins = _count_wins(_sorted_keys(self.codes, is_positive, index), rows, positives)
        sums = {term: sums_by_index(index, evaluate_term(term, self.rows), ids.size) for term in terms}
        return Groups(group=ids, rows=rows, positives=positives, wins=wins, sums=sums)


def as_scores(values: npt.NDArray[np.generic]) -> Scores:
    """Return scores as an array: float32 is kept, any other type becomes float64."""
    kind = np.float32 if values.dtype == np.float32 else np.float64
    return values.astype(kind, copy=False)


def check_scores(num_bad: int | np.integer, num_rows: int) -> None:
    """Raise `DataError` where some scores are not finite."""
    if num_bad:
        raise DataError(
            "scores must be finite numbers",
            value=f"{num_bad:,} of {num_rows:,} are NaN or infinite",
            remedy="training diverged: lower the learning rate, or look for outliers in numeric fields",
        )


def _group_indices(group: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Return the ids present, sorted, and each row's index among them."""
    # Dense ids are counted instead of sorted.
    if group.size and group.min() >= 0 and group.max() < 2 * group.size + 2**16:
        is_present = np.bincount(group) > 0
        return np.flatnonzero(is_present), (np.cumsum(is_present) - 1)[group]
    ids, index = np.unique(group, return_inverse=True)
    return ids.astype(np.int64), index.astype(np.int64)


def _sortable_codes(score: Scores) -> Keys:
    with np.errstate(over="ignore"):  # scores too large for float32 are detected by the comparison below
        single = score.astype(np.float32)
    if score.dtype != np.float32 and not np.array_equal(single, score):
        ranks: Keys = np.unique(score, return_inverse=True)[1].astype(np.uint64)
        return ranks
    single = single + np.float32(0)  # -0 and 0 are the same score
    sign = single.view(np.int32) >> 31  # all ones for negative scores, else all zeros
    codes: Keys = (single.view(np.uint32) ^ (sign.view(np.uint32) | np.uint32(2**31))).astype(np.uint64)
    return codes


def _sorted_keys(codes: Keys, is_positive: npt.NDArray[np.bool_], index: Ints | None = None) -> Keys:
    """Return (group, score, label) of each row as one integer of 31 + 32 + 1 bits, sorted."""
    keys = codes if index is None else codes | (index.astype(np.uint64) << np.uint64(32))
    keys = keys << np.uint64(1)
    keys |= is_positive
    keys.sort()
    return keys


def _count_wins(keys: Keys, rows: Ints, positives: Ints) -> Ints:
    """Return twice the Mann-Whitney statistic of each group, from its sum of mid-ranks."""
    if keys.size == 0:
        return np.zeros(rows.size, dtype=np.int64)
    tied = keys >> np.uint64(1)
    run_start = np.flatnonzero(np.concatenate(([True], tied[1:] != tied[:-1])))
    run_end = np.append(run_start[1:], keys.size)
    num_positive = np.concatenate(([0], np.cumsum(keys & np.uint64(1), dtype=np.int64)))
    rank_sums = (num_positive[run_end] - num_positive[run_start]) * (run_start + run_end + 1)
    offset = np.cumsum(rows) - rows
    # Everything is doubled, since mid-ranks are halves.
    ranks: Ints = np.add.reduceat(rank_sums, np.searchsorted(run_start, offset)) - 2 * offset * positives
    return ranks - positives * (positives + 1)
