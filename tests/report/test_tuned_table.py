from __future__ import annotations

import pytest

from ctrbench.report.comparison import Comparison, compare
from ctrbench.report.summary import summarize
from ctrbench.report.tuned_table import tuned_table
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from tests.conftest import MakeRecord

DEFAULT, TUNED = {"lr": None, "aux": "all"}, {"lr": 0.002, "aux": "all"}


@pytest.fixture
def trials(record: MakeRecord) -> list[RunRecord]:
    """Two trials of star: the second is better on dev."""

    def trial(settings: dict[str, object], dev_auc: float) -> RunRecord:
        made = record("star", 0, settings=settings, dev={"auc": dev_auc, "logloss": 0.5})
        key = made.key.model_copy(update={"is_trial": True})
        return made.model_copy(update={"key": key, "digest": key.digest, "run": key.run})

    return [trial(DEFAULT, 0.70), trial(TUNED, 0.71)]


def comparison_of(records: list[RunRecord], trials: list[RunRecord]) -> Comparison:
    (comparison,) = compare(records, trials)
    return comparison


def test_rows_with_the_best_settings_are_labeled_as_tuned(
    record: MakeRecord, trials: list[RunRecord]
) -> None:
    records = [record("plain"), record("star", settings=DEFAULT), record("star", settings=TUNED)]
    assert comparison_of(records, trials).methods == ("plain", "star", "star, tuned")
    assert comparison_of(records, []).methods == ("plain", "star[lr=0.002]", "star[lr=none]")


def test_a_default_that_is_best_is_not_labeled(record: MakeRecord, trials: list[RunRecord]) -> None:
    records = [record("plain"), record("star", settings=TUNED)]
    assert comparison_of(records, trials).methods == ("plain", "star")


def test_trials_of_other_conditions_do_not_count(record: MakeRecord, trials: list[RunRecord]) -> None:
    train = {"batch_size": 512, "lr": 0.001}
    records = [record("star", settings=settings, train=train) for settings in (DEFAULT, TUNED)]
    assert comparison_of(records, trials).methods == ("star[lr=0.002]", "star[lr=none]")


def test_the_table_shows_both_settings_and_the_gain(
    record: MakeRecord, trials: list[RunRecord], store: RunStore
) -> None:
    records = [
        record("star", seed, auc, settings=settings)
        for settings, values in ((DEFAULT, (0.70, 0.72)), (TUNED, (0.71, 0.75)))
        for seed, auc in enumerate(values, start=1)
    ]
    table = tuned_table(summarize(comparison_of(records, trials), store=store))
    assert table is not None
    backbone, line = table.lines
    assert (backbone.label, line.label) == ("dnn", "star")
    default, tuned, gain, seeds, count, dev, changes = (cell.text for cell in line.cells)
    assert (default, tuned, seeds, count, dev, changes) == (
        "0.7100",
        "0.7300",
        "2",
        "2",
        "0.7100",
        "lr=0.002",
    )
    assert gain.startswith("+0.0200")


def test_without_tuned_rows_there_is_no_table(record: MakeRecord, store: RunStore) -> None:
    assert tuned_table(summarize(comparison_of([record("star", settings=DEFAULT)], []), store=store)) is None
