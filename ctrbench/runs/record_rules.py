"""Rules that the content of a record keeps, beyond the types of its fields.

A record that was changed by hand, damaged or copied to the name of another run must not reach a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from ctrbench.eval.metrics.registry import is_possible
from ctrbench.runs.record import Result, RunRecord

Values = Mapping[str, float | None]


def find_fault(record: RunRecord) -> str | None:
    """Return the first rule that the record breaks, with the value that breaks it; None if it keeps all."""
    return next((fault for rule in RULES for fault in rule(record)), None)


def _identity(record: RunRecord) -> Iterator[str]:
    if record.digest != record.key.digest:
        yield f"digest must be that of the key, {record.key.digest[:12]}…, not {record.digest[:12]}…"
    if record.run != record.key.run:
        yield f"run must be {record.key.run!r}, not {record.run!r}"


def _status(record: RunRecord) -> Iterator[str]:
    if (record.status == "finished") != (record.result is not None):
        has = "no result" if record.result is None else "a result"
        yield f"only a finished run must have a result, but the run is {record.status} and has {has}"
    if record.status != "finished" and not record.error:
        yield f"a {record.status} run must have an error"


def _test_split(record: RunRecord) -> Iterator[str]:
    result = record.result
    if result is None:
        return
    if record.key.is_trial and (result.test or result.variants or result.bins or result.domains.domain):
        yield "a trial of tuning must have no metrics of the test split"
    if not record.key.is_trial and (not result.test or not result.predictions_sha256):
        yield "a finished run must have metrics of the test split and the sha256 of its predictions"


def _training(record: RunRecord) -> Iterator[str]:
    result = record.result
    if result is None:
        return
    epochs = [evaluation.epoch for evaluation in result.history]
    if any(later <= earlier for earlier, later in pairwise([0.0, *epochs])):
        yield "the epochs of history must be positive and increase"
    if not 1 <= result.best_evaluation <= len(result.history):
        num = len(result.history)
        yield f"best_evaluation must be one of the {num} evaluations of history, not {result.best_evaluation}"
    elif (best := result.history[result.best_evaluation - 1]).rows is None and best.dev != result.dev:
        # In records up to schema 3, evaluations score all dev rows.
        yield "dev must equal the dev metrics of the best evaluation"
    for name, count in (("steps", result.steps), ("rows_seen", result.rows_seen), *result.parameters):
        if count < 0:
            yield f"{name} must be at least 0, not {count}"


def _metrics(record: RunRecord) -> Iterator[str]:
    result = record.result
    if result is None:
        return
    for part, values in _parts(result):
        for name, value in values.items():
            if not is_possible(name, value):
                yield f"{part}.{name} is not a possible value of that metric: {value}"


def _parts(result: Result) -> Iterator[tuple[str, Values]]:
    yield from (("dev", result.dev), ("test", result.test), ("oracle", result.oracle))
    yield from ((f"variants.{name}", values) for name, values in result.variants.items())
    yield from ((f"history.{number}.dev", part.dev) for number, part in enumerate(result.history, start=1))
    yield from ((f"bins.{part.bin}", part.metrics) for part in result.bins)
    for name, column in result.domains.metrics.items():
        yield from ((f"domains.{i}", {name: value}) for i, value in enumerate(column))


def _groups(record: RunRecord) -> Iterator[str]:
    result = record.result
    if result is None:
        return
    domains = result.domains
    counts = {"rows_train": domains.rows_train, "rows": domains.rows, "positives": domains.positives}
    for name, column in {**counts, **domains.metrics}.items():
        if len(column) != len(domains.domain):
            yield f"domains.{name} must have {len(domains.domain)} values, one per domain, not {len(column)}"
    if len(set(domains.domain)) != len(domains.domain):
        yield "domains.domain must not repeat a domain"
    if len({part.bin for part in result.bins}) != len(result.bins):
        yield "bins must not repeat a bin"
    groups = [*zip(domains.rows_train, domains.rows, domains.positives, strict=False)]
    groups += [(part.rows_train, part.rows, part.positives) for part in result.bins]
    for rows_train, rows, positives in groups:
        if not (rows_train >= 0 and 0 <= positives <= rows):
            yield (
                "rows_train ≥ 0 and 0 ≤ positives ≤ rows must hold, not "
                f"rows_train {rows_train}, rows {rows}, positives {positives}"
            )


RULES: tuple[Callable[[RunRecord], Iterator[str]], ...] = (
    _identity,
    _status,
    _test_split,
    _training,
    _metrics,
    _groups,
)
