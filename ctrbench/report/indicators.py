"""Indicators of run records: which one is the main one of a comparison, and which methods ignore it.

A method with per-domain parameters may be run with several indicators, and each gives a row. A method that ignores the
indicator has one row, however often it was run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from ctrbench.runs.record import RunRecord

PLAIN = "plain"
"""Name of the reference method."""
Pair = tuple[str, str]
"""Digests of a backbone and a method."""


def main_indicator(records: Iterable[RunRecord]) -> str:
    """Return the indicator of the most rows; on a tie, a single feature is preferred to `all`.

    Plain rows are not counted, as the backbone ignores the indicator, and failed runs only if no run finished.
    """
    all_records = list(records)
    with_indicator = [record for record in all_records if not _is_bare_plain(record)] or all_records
    finished = [record for record in with_indicator if record.status == "finished"] or with_indicator
    rows = {
        (record.key.backbone.digest, record.key.method.digest, record.key.indicator) for record in finished
    }
    counts = Counter(indicator for _, _, indicator in rows)
    return min(counts, key=lambda indicator: (-counts[indicator], indicator == "all", indicator))


def pair(record: RunRecord) -> Pair:
    """Return method and backbone of a record."""
    return record.key.backbone.digest, record.key.method.digest


def ignoring_indicator(records: Iterable[RunRecord]) -> set[Pair]:
    """Return the pairs of method and backbone whose results do not depend on the indicator.

    These are plain without `norm` and `aux`, and pairs with equal predictions for all indicators.

    The latter requires a seed with runs of several indicators, and equal predictions in every such seed.
    """
    ignoring = set[Pair]()
    predictions: dict[Pair, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if _is_bare_plain(record):
            ignoring.add(pair(record))
        if record.result is not None:
            predictions[pair(record)][record.key.seed].append(record.result.predictions_sha256)
    for key, seeds in predictions.items():
        repeated = [digests for digests in seeds.values() if len(digests) > 1]
        if repeated and all(len(set(digests)) == 1 for digests in repeated):
            ignoring.add(key)
    return ignoring


def without_repetitions(records: list[RunRecord], indicator: str, pairs: set[Pair]) -> list[RunRecord]:
    """Return one record per seed of each pair that ignores the indicator: finished and of the main one if possible."""
    best: dict[tuple[Pair, int], RunRecord] = {}
    for record in records:
        key = pair(record), record.key.seed
        if key[0] in pairs:
            best[key] = min(
                (record, best.get(key, record)),
                key=lambda other: (other.status != "finished", other.key.indicator != indicator),
            )
    digests = {record.digest for record in best.values()}
    return [record for record in records if pair(record) not in pairs or record.digest in digests]


def _is_bare_plain(record: RunRecord) -> bool:
    """Return whether a record is plain without normalization and auxiliary network, which may use the indicator."""
    method = record.key.method
    return method.name == PLAIN and not any(value not in (None, "none") for value in method.settings.values())
