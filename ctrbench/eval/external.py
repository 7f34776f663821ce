"""Metrics of a parquet file of predictions that does not fit into memory.

One pass sums the terms of the metrics. A second pass visits the rows in ascending order of score, by external sorting:
each piece adds its own ordered pairs and the pairs with all negatives below it. Metrics over users need a third pass,
in order of user. Results equal those of predictions in memory; counts are integers, so AUC is equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from ctrbench.eval.external_sort import Rows, Source, read_all, sorted_pieces
from ctrbench.eval.grouped import Summary, user_totals
from ctrbench.eval.longtail import bin_metrics, bins_of_rows, check_known, with_sums_of_domains
from ctrbench.eval.measures import DomainTable, Measures
from ctrbench.eval.metrics.base import (
    Floats,
    Groups,
    GroupTotals,
    Ints,
    ScoredRows,
    Term,
    evaluate_term,
    sums_by_index,
)
from ctrbench.eval.metrics.registry import MetricSet, terms_of
from ctrbench.eval.oracle import AUC_EXPECTED, LOGLOSS_EXPECTED, ExpectedPairs, ceiling_names, entropy
from ctrbench.eval.prediction_file import (
    CEILING,
    POSITIVE,
    TRUTH,
    FileRows,
    PredictionFile,
    Ranking,
    record_rows,
    scored_rows,
    variant_columns,
)
from ctrbench.eval.ranking import RankedRows
from ctrbench.eval.stored import BinMetrics
from ctrbench.names import UNSEEN, Column


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Rows in memory at a time; memory depends on them, results do not."""

    held: int = 10_000_000
    """Files with at most this many rows are read into memory: up to about 1.6 GB."""
    piece: int = 2**21
    """Rows sorted at a time."""
    chunk: int = 2**19
    """Rows read at a time."""


@dataclass(frozen=True)
class ExternalEvaluation:
    """Evaluation of a file in passes."""

    predictions: PredictionFile
    table: DomainTable
    limits: Limits
    folder: Path
    """For scratch files."""
    metrics: MetricSet

    def measures(self) -> Measures:
        """Return all metrics of the file."""
        available = self.metrics.available(self.predictions.columns)
        main, bins = self._main_results(available)
        variants = variant_columns(self.predictions.columns)
        has_truth = Column.PROBABILITY in self.predictions.columns
        return Measures(
            overall=main.values(),
            variants={name: self._summarize_ranking(Ranking(name), available).values() for name in variants},
            oracle=self._oracle_metrics(available) if has_truth else {},
            domains=main.domain_metrics,
            bins=bins,
        )

    def bins(self) -> tuple[BinMetrics, ...]:
        """Return the metrics of the bins alone."""
        return self._main_results(self.metrics.available(self.predictions.columns).for_bins)[1]

    def _main_results(self, metrics: MetricSet) -> tuple[Summary, tuple[BinMetrics, ...]]:
        """Return the sums of the main score, and the metrics of the bins."""
        self._check_domains()
        bin_of = bins_of_rows(np.arange(self.table.num_ids), self.table)
        tally = _PairTally(self.table.num_bins + 1, lambda rows: bin_of[rows[Column.DOMAIN]])
        main = self._summarize_ranking(Ranking(Column.SCORE), metrics, tally)
        pooled = with_sums_of_domains(tally.groups(), main.domains, self.table)
        return main, bin_metrics(main.domain_metrics, pooled, table=self.table, metrics=metrics)

    def _check_domains(self) -> None:
        ids = [np.unique(frame.to_series().to_numpy()) for frame in self.predictions.frames([Column.DOMAIN])]
        check_known(np.unique(np.concatenate(ids)), self.table.domain)

    def _summarize_ranking(
        self, ranking: Ranking, metrics: MetricSet, *visitors: _Visitor, extra_columns: tuple[str, ...] = ()
    ) -> Summary:
        """Evaluate a score; further visitors receive the rows too, with `extra_columns` as float64."""
        sums = self._sum_terms(ranking, metrics)
        pooled, domains = _PairTally(1), _PairTally(self.table.num_ids, itemgetter(Column.DOMAIN))
        fields: dict[str, type[np.generic]] = {
            Column.DOMAIN: np.int32,
            **dict.fromkeys(extra_columns, np.float64),
        }
        source = FileRows(predictions=self.predictions, ranking=ranking, fields=fields)
        self._visit_by_score(source, pooled, domains, *visitors)
        by_domain = domains.groups()
        return Summary(
            pooled=pooled.groups().with_sums({term: np.array([s]) for term, s in sums.pooled.items()}),
            domains=by_domain.with_sums({term: s[by_domain.group] for term, s in sums.domains.items()}),
            users=self._user_totals(ranking, metrics) if metrics.means(Column.USER) else {},
            metrics=metrics,
        )

    def _sum_terms(self, ranking: Ranking, metrics: MetricSet) -> _TermSums:
        sums = _TermSums(
            pooled=dict.fromkeys(terms_of(metrics.of_rows), 0.0),
            domains={term: np.zeros(self.table.num_ids) for term in metrics.domain_terms},
        )
        truth = [Column.PROBABILITY] if Column.PROBABILITY in metrics.required_columns else []
        for frame in self.predictions.frames([Column.DOMAIN, Column.LABEL, ranking.column, *truth]):
            sums.add(frame, ranking)
        ranking.check(sums.num_bad, sums.num_rows)
        TRUTH.check(sums.num_bad_truth, sums.num_rows)
        return sums

    def _sorted_pieces(self, source: Source, by: str) -> Iterator[Source]:
        return sorted_pieces(source, by, limit=self.limits.piece, chunk=self.limits.chunk, folder=self.folder)

    def _visit_by_score(self, source: Source, *visitors: _Visitor) -> None:
        """Pass pieces to the visitors in ascending order of score; a piece above the limit has a single score."""
        for piece in self._sorted_pieces(source, Column.SCORE):
            if piece.num_rows > self.limits.piece:
                for visitor in visitors:
                    visitor.add_tied(piece)
                continue
            rows = read_all(piece)
            ranked = RankedRows.of(rows[POSITIVE], rows[Column.SCORE])
            for visitor in visitors:
                visitor.add(rows, ranked)

    def _user_totals(self, ranking: Ranking, metrics: MetricSet) -> dict[str, GroupTotals]:
        """Return the totals over seen users."""
        has_truth = any(Column.PROBABILITY in metric.required_columns for metric in metrics.of_users)
        truth: dict[str, type[np.generic]] = {Column.PROBABILITY: np.float64} if has_truth else {}
        source = FileRows(
            predictions=self.predictions,
            ranking=ranking,
            fields={Column.USER: np.int64, **truth},
            without=(Column.USER, UNSEEN),
        )
        totals = {mean.name: GroupTotals() for mean in metrics.means(Column.USER)}
        for piece in self._sorted_pieces(source, Column.USER):
            users = self._users_of_piece(piece, terms_of(metrics.of_users))
            totals = {name: totals[name] + part for name, part in user_totals(users, metrics).items()}
        return totals

    def _users_of_piece(self, piece: Source, terms: tuple[Term, ...]) -> Groups:
        """Return the users of a piece; a piece that exceeds the limit belongs to a single user."""
        if piece.num_rows <= self.limits.piece:
            rows = read_all(piece)
            return RankedRows.from_rows(record_rows(rows)).grouped(rows[Column.USER], terms)
        user = _PairTally(1)
        self._visit_by_score(piece, user)
        sums = dict.fromkeys(terms, 0.0)
        for chunk in piece.chunks():
            sums = {
                term: total + float(evaluate_term(term, record_rows(chunk)).sum())
                for term, total in sums.items()
            }
        return user.groups().with_sums({term: np.array([total]) for term, total in sums.items()})

    def _oracle_metrics(self, metrics: MetricSet) -> dict[str, float | None]:
        expected = _ExpectedTally()
        values = self._summarize_ranking(
            TRUTH, metrics, expected, extra_columns=(Column.PROBABILITY,)
        ).values()
        values |= {AUC_EXPECTED: expected.pairs.auc(), LOGLOSS_EXPECTED: self._mean_entropy()}
        if Column.CEILING not in self.predictions.columns:
            return values
        return values | ceiling_names(self._summarize_ranking(CEILING, metrics).values())

    def _mean_entropy(self) -> float:
        frames = self.predictions.frames([Column.PROBABILITY])
        parts = (entropy(frame.to_series().to_numpy().astype(np.float64)) for frame in frames)
        return sum(float(part.sum()) for part in parts) / self.predictions.num_rows


class _Visitor(Protocol):
    """Receiver of rows in ascending order of score."""

    def add(self, rows: Rows, ranked: RankedRows) -> None:
        """Add rows that lie above all rows added before."""

    def add_tied(self, piece: Source) -> None:
        """Add rows that lie above all rows added before and share one score; they may not fit into memory."""


class _PairTally:
    """Counts of ordered pairs per group, added up from pieces in ascending order of score."""

    def __init__(
        self, num_groups: int, group_of: Callable[[Rows], npt.NDArray[np.integer]] | None = None
    ) -> None:
        """Without `group_of` all rows are one group."""
        self._group_of = group_of
        self._rows, self._positives, self._wins = np.zeros((3, num_groups), dtype=np.int64)

    def add(self, rows: Rows, ranked: RankedRows) -> None:
        self._add_groups(ranked.pooled() if self._group_of is None else ranked.grouped(self._group_of(rows)))

    def add_tied(self, piece: Source) -> None:
        rows, positives = np.zeros((2, self._rows.size), dtype=np.int64)
        for chunk in piece.chunks():
            group = np.zeros(chunk.size, np.int64) if self._group_of is None else self._group_of(chunk)
            rows += np.bincount(group, minlength=rows.size)
            positives += np.bincount(group[chunk[POSITIVE]], minlength=rows.size)
        # Each pair is half a win; wins are doubled.
        wins = positives * (rows - positives)
        self._add_groups(
            Groups(group=np.arange(rows.size), rows=rows, positives=positives, wins=wins, sums={})
        )

    def _add_groups(self, groups: Groups) -> None:
        ids = groups.group
        negatives_below = self._rows[ids] - self._positives[ids]
        self._wins[ids] += groups.wins + 2 * groups.positives * negatives_below
        self._rows[ids] += groups.rows
        self._positives[ids] += groups.positives

    def groups(self) -> Groups:
        """Return the groups that have rows; a tally of one group returns it in any case."""
        ids: Ints = np.zeros(1, np.int64) if self._group_of is None else np.flatnonzero(self._rows)
        return Groups(
            group=ids,
            rows=self._rows[ids],
            positives=self._positives[ids],
            wins=self._wins[ids],
            sums={},
        )


class _ExpectedTally:
    """The label-free AUC, added up from pieces in ascending order of the true probability's logit."""

    def __init__(self) -> None:
        self.pairs = ExpectedPairs()

    def add(self, rows: Rows, _ranked: RankedRows) -> None:
        self.pairs.add(rows[Column.PROBABILITY])

    def add_tied(self, piece: Source) -> None:
        # The order of rows with equal probabilities is irrelevant.
        for chunk in piece.chunks():
            self.pairs.add(chunk[Column.PROBABILITY])


@dataclass(kw_only=True)
class _TermSums:
    """Sums of terms over all rows, and over the rows of each domain by id."""

    pooled: dict[Term, float]
    domains: dict[Term, Floats]
    num_rows: int = 0
    num_bad: int = 0
    num_bad_truth: int = 0

    def add(self, frame: pl.DataFrame, ranking: Ranking) -> None:
        """Add rows; invalid ones are only counted, since they make the whole file invalid."""
        has_truth = Column.PROBABILITY in frame.columns
        num_bad = int(np.count_nonzero(ranking.is_bad(frame)))
        num_bad_truth = int(np.count_nonzero(TRUTH.is_bad(frame))) if has_truth else 0
        self.num_rows += frame.height
        self.num_bad += num_bad
        self.num_bad_truth += num_bad_truth
        if not num_bad and not num_bad_truth:
            self._add_terms(scored_rows(frame, ranking), frame[Column.DOMAIN].to_numpy())

    def _add_terms(self, rows: ScoredRows, domain: npt.NDArray[np.integer]) -> None:
        for term in dict.fromkeys([*self.pooled, *self.domains]):
            values = evaluate_term(term, rows)
            if term in self.pooled:
                self.pooled[term] += float(values.sum())
            if term in self.domains:
                self.domains[term] += sums_by_index(domain, values, self.domains[term].size)
