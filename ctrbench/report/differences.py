"""Differences between rows of a comparison over seeds and test users; part of the summary.

The rules are in `eval.contrasts` and `eval.verdicts`. Here rows of records become samples, and families of pairs are
chosen: each method with plain, each method with its control, and all pairs for the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from ctrbench.eval.cluster_influence import STORED_METRICS, unpack
from ctrbench.eval.contrasts import Contrast, contrasts, detectable_gap
from ctrbench.eval.crossed import RowSample
from ctrbench.eval.grouped import average
from ctrbench.eval.measures import grouped_columns
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import Metric
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.eval.significance import Interval, bootstrap_domains
from ctrbench.eval.verdicts import MARGINS, RankRange, Verdict, rank_ranges, verdict
from ctrbench.report.comparison import Row, gain
from ctrbench.report.estimate import Estimate, estimate

Name = tuple[str, str]
"""Labels of backbone and method."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row minus the row that it is compared with."""

    contrast: Contrast
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Power:
    """The difference in AUC from plain that tables with these seeds and users find in most cases."""

    gap: float
    num_seeds: int
    """The smallest number of seeds of a tested row."""
    num_clusters: int
    clusters: str
    """`users`, or `rows` where the data have no users."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A row minus another one, such as plain, paired by seed."""

    estimate: Estimate | None
    """Over seeds; None without common seeds."""
    difference: Difference | None
    """With its interval over seeds and test users, and the verdict; None for a metric without influence values."""
    over_domains: Interval | None
    """Difference in GAUC, mean over seeds, with its interval over resampled domains; None for other metrics."""


def gains_over(pairs: Sequence[tuple[Row, Row]], metric: Metric) -> tuple[Gain, ...]:
    """Return the gain of the first row of each pair over the second one; the pairs are one family."""
    differences = _differences(pairs, metric)
    return tuple(
        Gain(
            estimate=estimate(gain(row, base, metric.name).values()),
            difference=difference,
            over_domains=_domain_gain(row, base) if metric.name == Gauc.name else None,
        )
        for (row, base), difference in zip(pairs, differences, strict=True)
    )


def _domain_gain(row: Row, base: Row) -> Interval | None:
    """Return the gain in GAUC with its interval over resampled domains, for per-domain means over common seeds."""
    seeds = sorted(row.results.keys() & base.results.keys())
    if not seeds:
        return None
    first, second = (
        average([grouped_columns(r.results[seed].domains) for seed in seeds]) for r in (row, base)
    )
    return bootstrap_domains(first, second)


def rank_rows(rows: Sequence[Row]) -> dict[Name, RankRange]:
    """Return the ranks by AUC that are possible for each row with at least `MIN_SEEDS` seeds."""
    ranked = [row for row in rows if len(row.values(Auc.name)) >= MIN_SEEDS]
    samples = dict(zip((row.name for row in ranked), row_samples(ranked, Auc.name), strict=True))
    failed = {row.name for row in ranked if row.num_failed}
    means = {name: sum(sample.values.values()) / len(sample.values) for name, sample in samples.items()}
    pairs = contrasts(samples, combinations(samples, 2), untested=failed)
    return rank_ranges(means, pairs, higher_is_better=True, failed=failed)


def power(rows: Sequence[Row], gains: Iterable[Gain]) -> Power | None:
    """Return the power of the gains in AUC over plain of the rows of a backbone; None if none is tested."""
    contrasts_of_gains = [gain.difference.contrast for gain in gains if gain.difference]
    tested = [contrast for contrast in contrasts_of_gains if contrast.uncertainty]
    gap = detectable_gap(tested)
    if gap is None:
        return None
    influences = [result.influence for row in rows for result in row.results.values() if result.influence]
    return Power(
        gap=gap,
        num_seeds=min(contrast.num_seeds for contrast in tested),
        num_clusters=influences[0].num_keys,
        clusters=influences[0].clusters,
    )


def row_samples(rows: Sequence[Row], metric: str) -> tuple[RowSample, ...]:
    """Return values and influence values of each row; those of clusters unlike the first run's are left out."""
    influences = [result.influence for row in rows for result in row.results.values()]
    digest = next((influence.digest for influence in influences if influence), None)
    return tuple(_row_sample(row, metric, digest) for row in rows)


def _row_sample(row: Row, metric: str, digest: str | None) -> RowSample:
    packed = {
        seed: result.influence.metrics[metric]
        for seed, result in row.results.items()
        if result.influence and result.influence.digest == digest and metric in result.influence.metrics
    }
    return RowSample(
        values=row.values(metric), influences={seed: unpack(numbers) for seed, numbers in packed.items()}
    )


def _differences(pairs: Sequence[tuple[Row, Row]], metric: Metric) -> Sequence[Difference | None]:
    """Return the difference of each pair; None for a metric or a row without values."""
    if metric.name not in STORED_METRICS:
        return [None] * len(pairs)
    rows = list({id(row): row for pair in pairs for row in pair}.values())
    index = {id(row): i for i, row in enumerate(rows)}
    samples = dict(enumerate(row_samples(rows, metric.name)))
    names = [(index[id(first)], index[id(second)]) for first, second in pairs]
    untested = [i for i, row in enumerate(rows) if row.num_failed]
    family = contrasts(samples, dict.fromkeys(names), untested=untested)
    return [_difference(family[name], metric) for name in names]


def _difference(contrast: Contrast, metric: Metric) -> Difference | None:
    if contrast.mean is None:
        return None
    conclusion = verdict(
        contrast, higher_is_better=bool(metric.higher_is_better), margin=MARGINS.get(metric.name)
    )
    return Difference(contrast=contrast, verdict=conclusion)
