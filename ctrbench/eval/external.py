"""Every metric of a parquet file of predictions, however many rows it holds.

`measure_file` is the one door. A file of moderate size is held in memory; a larger one is read in passes: sums in one,
then the rows in ascending order of score, where each piece adds its own won pairs and those over all negatives below
it, and for user GAUC in order of user. Both ways share their formulas with `metrics` and `longtail`, and counts are
integers, so that AUC is the same to the last bit. `binned_auc` needs no sort, and says how far off it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ctrbench.errors import DataError
from ctrbench.eval.longtail import BinResult, bin_metrics, bins_of_rows, check_known, join_bins
from ctrbench.eval.metrics import (
    AUC_EXPECTED,
    LOGLOSS_EXPECTED,
    ExpectedPairs,
    Floats,
    GaucSums,
    GroupMetrics,
    GroupPairs,
    Ints,
    Scores,
    Summary,
    as_scores,
    check_probabilities,
    check_scores,
    click,
    codes_of,
    cross_entropy,
    entropy,
    group_metrics,
    group_pairs,
    of_ceiling,
    oracle,
    overall,
    true_logit,
)
from ctrbench.eval.partition import Rows, Source, Values, beside, in_order, scratch, whole
from ctrbench.names import UNSEEN, Column

NOT_SCORES = frozenset(
    {Column.ROW, Column.DOMAIN, Column.LABEL, Column.USER, Column.PROBABILITY, Column.CEILING}
)
"""Columns of predictions that are no score; every other one is."""
_POSITIVE = "positive"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Rows held at a time; memory follows them, results do not."""

    held: int = 10_000_000
    """Files of at most so many rows are held in memory: up to about 1.6 GB."""
    piece: int = 2**21
    """Rows sorted at a time."""
    chunk: int = 2**19
    """Rows read at a time."""


@dataclass(frozen=True, kw_only=True)
class DomainTable:
    """What the metrics of bins need to know of the domains, every domain in it."""

    domain: npt.ArrayLike
    rows_train: npt.ArrayLike
    num_bins: int

    @property
    def num_ids(self) -> int:
        """One more than the largest id."""
        return int(np.max(self.domain, initial=0)) + 1


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Everything that a record says about predictions."""

    overall: dict[str, float | None]
    variants: dict[str, dict[str, float | None]]
    """The same by each further score column."""
    oracle: dict[str, float | None]
    """Empty where the true probability is not known."""
    domains: GroupMetrics
    bins: tuple[BinResult, ...]


@dataclass(frozen=True, kw_only=True)
class BinnedAuc:
    """An AUC from a histogram of scores; the exact one lies within `value` ± `bound`."""

    value: float
    bound: float


def measure_file(
    file: Path, *, table: DomainTable, limits: Limits | None = None, folder: Path | None = None
) -> Measures:
    """Return every metric of a file of predictions (columns as in `names.Column`; further ones are scores).

    Scratch files, at most 30 bytes a row at a time, go to `folder`, by default the one that `beside` names. Raises
    `DataError` as `metrics.overall` and `longtail.bin_metrics` do, and for what is no file of predictions.
    """
    limits = limits or Limits()
    found = _Predictions.open(file, limits.chunk)
    if found.num_rows <= limits.held:
        return measure_frame(pl.read_parquet(file), table=table)
    with scratch(folder or beside(file)) as inside:
        return _External(found, table, limits, inside).measures()


def measure_bins(
    file: Path, *, table: DomainTable, limits: Limits | None = None, folder: Path | None = None
) -> tuple[BinResult, ...]:
    """Return the metrics of the bins alone; otherwise as `measure_file`."""
    limits = limits or Limits()
    found = _Predictions.open(file, limits.chunk)
    if found.num_rows <= limits.held:
        return bin_metrics(
            pl.read_parquet(file, columns=[Column.DOMAIN, Column.LABEL, Column.SCORE]), **vars(table)
        )
    with scratch(folder or beside(file)) as inside:
        return _External(found, table, limits, inside).of_bins(is_bare=True)[1]


def measure_frame(predictions: pl.DataFrame, *, table: DomainTable) -> Measures:
    """Return every metric of predictions in memory."""
    columns = (Column.DOMAIN, Column.LABEL, Column.SCORE)
    return Measures(
        overall=overall(predictions),
        variants={name: overall(predictions, score=name) for name in _variants(predictions.columns)},
        oracle=oracle(predictions) if Column.PROBABILITY in predictions.columns else {},
        domains=group_metrics(*(predictions[name].to_numpy() for name in columns)),
        bins=bin_metrics(predictions, **vars(table)),
    )


def binned_auc(file: Path, *, score: str = Column.SCORE, bits: int = 20) -> BinnedAuc | None:
    """Return the AUC of scores put into 2**bits bins by the leading bits of their float32, in one pass without a sort.

    Pairs within a bin count half, so the error is at most half their number over that of all pairs: the sum over bins
    of P_b N_b / 2 over P N. None if a class is missing; raises `DataError` for scores that are not finite.
    """
    ranked = _Ranking(score)
    counts, num_bad, num_rows = np.zeros((2, 2**bits), dtype=np.int64), 0, 0
    for frame in _Predictions.open(file, Limits().chunk).frames([Column.LABEL, score]):
        is_bad, is_positive = ranked.is_bad(frame), _is_positive(frame)
        num_bad, num_rows = num_bad + int(np.count_nonzero(is_bad)), num_rows + is_bad.size
        with np.errstate(over="ignore"):  # beyond float32 is the last bin
            place = codes_of(frame[score].to_numpy().astype(np.float32)) >> np.uint32(32 - bits)
        counts[0] += np.bincount(place[~is_positive], minlength=2**bits)
        counts[1] += np.bincount(place[is_positive], minlength=2**bits)
    check_scores(num_bad, num_rows)
    return _auc_of_histogram(*counts)


def _auc_of_histogram(negatives: Ints, positives: Ints) -> BinnedAuc | None:
    pairs = int(negatives.sum()) * int(positives.sum())
    if not pairs:
        return None
    ties = int(negatives @ positives)
    wins = int((np.cumsum(negatives) - negatives) @ positives)
    return BinnedAuc(value=(2 * wins + ties) / (2 * pairs), bound=ties / (2 * pairs))


def _variants(columns: Iterable[str]) -> list[str]:
    return [name for name in columns if name not in NOT_SCORES | {Column.SCORE}]


def _is_positive(frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
    return frame[Column.LABEL].to_numpy().astype(bool)


@dataclass(frozen=True, kw_only=True)
class _Predictions:
    """A parquet file of predictions, read a chunk at a time."""

    file: Path
    num_rows: int
    columns: tuple[str, ...]
    chunk: int

    @classmethod
    def open(cls, file: Path, chunk: int) -> _Predictions:
        try:
            metadata = pq.read_metadata(file)
        except (OSError, pa.ArrowInvalid):
            raise DataError(
                "predictions are a parquet file", value=file, remedy="make the run again to have them"
            ) from None
        columns = tuple(metadata.schema.to_arrow_schema().names)
        missing = {Column.DOMAIN, Column.LABEL, Column.SCORE} - set(columns)
        if missing:
            raise DataError(
                "predictions hold domain, label and score", value=f"{file} lacks {sorted(missing)}"
            )
        return cls(file=file, num_rows=metadata.num_rows, columns=columns, chunk=chunk)

    def frames(self, columns: Iterable[str]) -> Iterator[pl.DataFrame]:
        """Yield these columns of all rows."""
        with pq.ParquetFile(self.file, pre_buffer=False, buffer_size=2**20) as stream:
            for batch in stream.iter_batches(self.chunk, columns=list(dict.fromkeys(columns))):
                yield pl.DataFrame(pa.Table.from_batches([batch]))


@dataclass(frozen=True)
class _Ranking:
    """What rows are ranked by: a column of logits, or one of probabilities, whose logits then are."""

    column: str
    is_probability: bool = False

    def scores(self, frame: pl.DataFrame) -> Scores:
        """Return the score of each row."""
        values = as_scores(frame[self.column].to_numpy())
        return true_logit(values.astype(np.float64)) if self.is_probability else values

    def is_bad(self, frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Mark the rows that have no score."""
        values = frame[self.column].to_numpy()
        is_good = (values >= 0) & (values <= 1) if self.is_probability else np.isfinite(values)
        return ~np.asarray(is_good, dtype=bool)

    def check(self, num_bad: int, num_rows: int) -> None:
        """Refuse rows without a score."""
        (check_probabilities if self.is_probability else check_scores)(num_bad, num_rows)


_TRUTH = _Ranking(Column.PROBABILITY, is_probability=True)
_CEILING = _Ranking(Column.CEILING, is_probability=True)


@dataclass(frozen=True, kw_only=True)
class _FileRows:
    """Rows of a file as records of a score, a label and what they are grouped by."""

    predictions: _Predictions
    ranking: _Ranking
    fields: dict[str, type[np.generic]]
    """Columns that rows keep beside score and label, and their types."""
    without: tuple[str, int] | None = None
    """A column, and the value in it of rows to be left out."""

    @property
    def num_rows(self) -> int:
        return self.predictions.num_rows

    def chunks(self) -> Iterator[Rows]:
        for frame in self.predictions.frames([self.ranking.column, Column.LABEL, *self.fields]):
            kept = self._kept(frame)
            score = self.ranking.scores(kept)
            fields = [(Column.SCORE, score.dtype), (_POSITIVE, np.bool_), *self.fields.items()]
            rows = np.empty(kept.height, dtype=np.dtype(fields))
            rows[Column.SCORE], rows[_POSITIVE] = score, _is_positive(kept)
            for name in self.fields:
                rows[name] = kept[name].to_numpy()
            yield rows

    def values(self, field: str) -> Iterator[Values]:
        column = self.ranking.column if field == Column.SCORE else field
        for frame in self.predictions.frames([column, *(self.without or ())[:1]]):
            kept = self._kept(frame)
            yield self.ranking.scores(kept) if field == Column.SCORE else kept[field].to_numpy()

    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.filter(pl.col(self.without[0]) != self.without[1]) if self.without else frame


class _Taker(Protocol):
    """Who is shown pieces of rows in ascending order of score."""

    def add(self, rows: Rows) -> None:
        """Take rows that lie above all rows so far."""

    def add_tied(self, piece: Source) -> None:
        """Take rows that lie above all rows so far and have one score; they may be many."""


class _PairTally:
    """The pairs of groups, added up from pieces in ascending order of score."""

    def __init__(self, group_of: Callable[[Rows], npt.NDArray[np.integer]], num_groups: int) -> None:
        self._group_of = group_of
        self._rows, self._positives, self._wins = np.zeros((3, num_groups), dtype=np.int64)

    def add(self, rows: Rows) -> None:
        self._take(group_pairs(self._group_of(rows), rows[_POSITIVE], rows[Column.SCORE]))

    def add_tied(self, piece: Source) -> None:
        rows, positives = np.zeros((2, self._rows.size), dtype=np.int64)
        for chunk in piece.chunks():
            group = self._group_of(chunk)
            rows += np.bincount(group, minlength=rows.size)
            positives += np.bincount(group[chunk[_POSITIVE]], minlength=rows.size)
        wins = positives * (rows - positives)  # each pair half a win, doubled
        self._take(GroupPairs(group=np.arange(rows.size), rows=rows, positives=positives, wins=wins))

    def _take(self, pairs: GroupPairs) -> None:
        at = pairs.group
        negatives_below = self._rows[at] - self._positives[at]
        self._wins[at] += pairs.wins + 2 * pairs.positives * negatives_below
        self._rows[at] += pairs.rows
        self._positives[at] += pairs.positives

    def pairs(self) -> GroupPairs:
        """Return the pairs of all groups that have rows."""
        (at,) = np.nonzero(self._rows)
        return GroupPairs(group=at, rows=self._rows[at], positives=self._positives[at], wins=self._wins[at])


class _ExpectedTally(ExpectedPairs):
    """The label-free AUC, added up from pieces in ascending order of the true probability's logit."""

    def add(self, rows: Rows) -> None:  # type: ignore[override]
        super().add(rows[Column.PROBABILITY])

    def add_tied(self, piece: Source) -> None:
        # Of equal probabilities, it is all one who lies below whom.
        for chunk in piece.chunks():
            self.add(chunk)


@dataclass(kw_only=True)
class _Sums:
    """Sums over rows, and over those of each domain, by id."""

    num_domains: int
    num_rows: int = 0
    num_bad: int = 0
    num_bad_truth: int = 0
    loss: float = 0.0
    clicks: float = 0.0
    expected_loss: float = 0.0
    positives: int = 0
    domain_losses: Floats = field(init=False)
    domain_clicks: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.domain_losses, self.domain_clicks = np.zeros((2, self.num_domains))

    def add(self, frame: pl.DataFrame, ranking: _Ranking) -> None:
        """Add rows; rows that break a rule are counted, and end it all later."""
        has_truth = Column.PROBABILITY in frame.columns
        num_bad = int(np.count_nonzero(ranking.is_bad(frame)))
        num_bad_truth = int(np.count_nonzero(_TRUTH.is_bad(frame))) if has_truth else 0
        self.num_rows += frame.height
        self.num_bad += num_bad
        self.num_bad_truth += num_bad_truth
        if num_bad or num_bad_truth:
            return
        score, is_positive = ranking.scores(frame), _is_positive(frame)
        self._add_labels(score, is_positive, frame[Column.DOMAIN].to_numpy())
        if has_truth:
            truth = frame[Column.PROBABILITY].to_numpy().astype(np.float64)
            self.expected_loss += float(cross_entropy(truth, score).sum())

    def _add_labels(
        self, score: Scores, is_positive: npt.NDArray[np.bool_], domain: npt.NDArray[np.integer]
    ) -> None:
        losses, clicks = cross_entropy(is_positive, score), click(score)
        self.positives += int(np.count_nonzero(is_positive))
        self.loss += float(losses.sum())
        self.clicks += float(clicks.sum())
        self.domain_losses += np.bincount(domain, weights=losses, minlength=self.num_domains)
        self.domain_clicks += np.bincount(domain, weights=clicks, minlength=self.num_domains)

    def domains(self, pairs: GroupPairs) -> GroupMetrics:
        """Return the metrics of the domains whose pairs were counted."""
        at = pairs.group
        return GroupMetrics.of(pairs, losses=self.domain_losses[at], clicks=self.domain_clicks[at])


@dataclass(frozen=True)
class _External:
    """The metrics of a file that is not held in memory."""

    predictions: _Predictions
    table: DomainTable
    limits: Limits
    folder: Path

    def measures(self) -> Measures:
        """Return every metric."""
        main, bins = self.of_bins()
        variants = _variants(self.predictions.columns)
        return Measures(
            overall=main.entries(),
            variants={name: self._summary(_Ranking(name)).entries() for name in variants},
            oracle=self._oracle() if Column.PROBABILITY in self.predictions.columns else {},
            domains=main.domains,
            bins=bins,
        )

    def of_bins(self, *, is_bare: bool = False) -> tuple[Summary, tuple[BinResult, ...]]:
        """Return the metrics of the main score (bare: users and truth left out), and of the bins."""
        self._check_domains()
        bin_of = bins_of_rows(np.arange(self.table.num_ids), **vars(self.table))
        tally = _PairTally(lambda rows: bin_of[rows[Column.DOMAIN]], self.table.num_bins + 1)
        main = self._summary(_Ranking(Column.SCORE), tally, is_bare=is_bare)
        return main, join_bins(main.domains, tally.pairs(), **vars(self.table))

    def _check_domains(self) -> None:
        found = [
            np.unique(frame.to_series().to_numpy()) for frame in self.predictions.frames([Column.DOMAIN])
        ]
        check_known(np.unique(np.concatenate(found)), self.table.domain)

    def _summary(
        self, ranking: _Ranking, *takers: _Taker, keep: tuple[str, ...] = (), is_bare: bool = False
    ) -> Summary:
        """Judge a score; further takers see the rows too, with further columns (of float64) that they need."""
        known = set() if is_bare else {Column.USER, Column.PROBABILITY} & set(self.predictions.columns)
        sums = self._sums(ranking, known)
        pooled = _PairTally(lambda rows: np.zeros(rows.size, dtype=np.int64), 1)
        domains = _PairTally(itemgetter(Column.DOMAIN), self.table.num_ids)
        fields: dict[str, type[np.generic]] = {Column.DOMAIN: np.int32, **dict.fromkeys(keep, np.float64)}
        self._show(
            _FileRows(predictions=self.predictions, ranking=ranking, fields=fields), pooled, domains, *takers
        )
        (auc,) = pooled.pairs().auc()
        return Summary(
            rows=sums.num_rows,
            positives=sums.positives,
            loss=sums.loss / sums.num_rows,
            clicks=sums.clicks,
            auc=None if np.isnan(auc) else float(auc),
            domains=sums.domains(domains.pairs()),
            users=self._users(ranking) if Column.USER in known else None,
            expected_loss=sums.expected_loss / sums.num_rows if Column.PROBABILITY in known else None,
        )

    def _sums(self, ranking: _Ranking, known: Set[str]) -> _Sums:
        sums = _Sums(num_domains=self.table.num_ids)
        needed = {Column.DOMAIN, Column.LABEL, ranking.column} | (known & {Column.PROBABILITY})
        for frame in self.predictions.frames(needed):
            sums.add(frame, ranking)
        ranking.check(sums.num_bad, sums.num_rows)
        _TRUTH.check(sums.num_bad_truth, sums.num_rows)
        return sums

    def _in_order(self, source: Source, by: str) -> Iterator[Source]:
        return in_order(source, by, limit=self.limits.piece, chunk=self.limits.chunk, folder=self.folder)

    def _show(self, source: Source, *takers: _Taker) -> None:
        """Show pieces in ascending order of score; one that is too large to be held has a single score."""
        for piece in self._in_order(source, Column.SCORE):
            rows = whole(piece) if piece.num_rows <= self.limits.piece else None
            for taker in takers:
                if rows is None:
                    taker.add_tied(piece)
                else:
                    taker.add(rows)

    def _users(self, ranking: _Ranking) -> GaucSums:
        source = _FileRows(
            predictions=self.predictions,
            ranking=ranking,
            fields={Column.USER: np.int64},
            without=(Column.USER, UNSEEN),
        )
        pieces = self._in_order(source, Column.USER)
        pairs = (self._pairs_of_users(piece) for piece in pieces)
        return sum((GaucSums.of(one.auc(), one.rows) for one in pairs), GaucSums())

    def _pairs_of_users(self, piece: Source) -> GroupPairs:
        """Return the pairs of the users of a piece; one that is too large to be held is of a single user."""
        if piece.num_rows <= self.limits.piece:
            rows = whole(piece)
            return group_pairs(rows[Column.USER], rows[_POSITIVE], rows[Column.SCORE])
        user = _PairTally(lambda rows: np.zeros(rows.size, dtype=np.int64), 1)
        self._show(piece, user)
        return user.pairs()

    def _oracle(self) -> dict[str, float | None]:
        expected = _ExpectedTally()
        found = self._summary(_TRUTH, expected, keep=(Column.PROBABILITY,)).entries()
        found |= {AUC_EXPECTED: expected.auc(), LOGLOSS_EXPECTED: self._mean_entropy()}
        if Column.CEILING not in self.predictions.columns:
            return found
        return found | of_ceiling(self._summary(_CEILING).entries())

    def _mean_entropy(self) -> float:
        frames = self.predictions.frames([Column.PROBABILITY])
        parts = (entropy(frame.to_series().to_numpy().astype(np.float64)) for frame in frames)
        return sum(float(part.sum()) for part in parts) / self.predictions.num_rows
