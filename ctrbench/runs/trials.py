"""Trials of tuning as records: their score, and the best one of each search.

Reports and tuned runs read them without training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ctrbench.eval.metrics.auc import Auc
from ctrbench.runs.record import RunKey, RunRecord


def score(record: RunRecord) -> float | None:
    """Return the score of a trial, its dev AUC; None if it failed."""
    return None if record.result is None else record.result.dev.get(Auc.name)


def best_of(records: Sequence[RunRecord]) -> RunRecord | None:
    """Return the trial with the highest score, the first one in a tie; None without a score."""
    scored = [(value, record) for record in records if (value := score(record)) is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def search_of(key: RunKey) -> str:
    """Return the identity of the search that a trial belongs to, and that chooses the settings of a run.

    A search has one method, backbone, dataset, domain set and training configuration; settings of the method, indicator
    and seed vary.
    """
    method = key.method.model_copy(update={"settings": {}})
    update = {"method": method, "indicator": "", "seed": 0, "is_trial": False, "control": None}
    return key.model_copy(update=update).digest


def by_search(trials: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Return the trials of each search, in the order of their digests."""
    searches: dict[str, list[RunRecord]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: trial.digest):
        searches[search_of(trial.key)].append(trial)
    return dict(searches)


def is_run_of(trial: RunRecord, key: RunKey) -> bool:
    """Return whether a run has the settings and the indicator of a trial of its search."""
    same = (trial.key.method, trial.key.indicator) == (key.method, key.indicator)
    return same and search_of(trial.key) == search_of(key)
