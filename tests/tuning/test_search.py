from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ctrbench.data.prepared import open_prepared
from ctrbench.plugins.ranges import Choices
from ctrbench.runs.execute import execute
from ctrbench.runs.experiment import Experiment, Grid
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.outcome import failed_record
from ctrbench.runs.store import RunStore
from ctrbench.runs.trials import score
from ctrbench.tuning.search import Search, make_searches, replay
from ctrbench.tuning.tuned import with_tuned_settings

CONFIG = make_config(epochs=1, evaluations=1, batch_size=4000, embedding_size=2)


def runs_of(home: Path, methods: Sequence[str], *, seed: int = 0) -> tuple[Run, ...]:
    prepared = open_prepared("tiny", home / "home")
    return make_grid(
        prepared, methods=methods, backbones=["dnn[hidden=2]"], seeds=[seed], domain_set="default",
        indicator=None, config=CONFIG,
    )  # fmt: skip


def searches_of(home: Path, methods: Sequence[str] = ("plain",), num_trials: int = 3) -> list[Search]:
    return make_searches(runs_of(home, methods), methods, num_trials=num_trials, features=("shop", "item"))


@pytest.fixture
def tuned_store(home: Path, tmp_path: Path) -> RunStore:
    """A store of its own on the prepared data."""
    return RunStore(results=tmp_path / "results", home=home / "home")


class Executor:
    """Executes trials in this process, and counts them; stops before trial number `stop`."""

    def __init__(self, store: RunStore, stop: int = 1_000) -> None:
        self.store, self.stop, self.executed = store, stop, [0]

    def __call__(self, missing: list[Run]) -> None:
        for run in missing:
            if self.executed[0] == self.stop:
                raise KeyboardInterrupt
            execute(run, self.store)
            self.executed[0] += 1


def digests(searches: Sequence[Search]) -> list[list[str]]:
    return [[trial.key.digest for trial in search.trials] for search in searches]


def test_a_search_resumes_with_the_same_trials_and_ends(home: Path, tuned_store: RunStore) -> None:
    interrupted = Executor(tuned_store, stop=2)
    with pytest.raises(KeyboardInterrupt):
        replay(searches_of(home), tuned_store, interrupted)
    resumed, second = searches_of(home), Executor(tuned_store)
    replay(resumed, tuned_store, second)
    assert (interrupted.executed, second.executed) == ([2], [2])
    repeated, third = searches_of(home), Executor(tuned_store)
    replay(repeated, tuned_store, third)
    assert third.executed == [0]
    assert digests(repeated) == digests(resumed)
    assert len(list(tuned_store.trials("tiny"))) == 4
    assert list(tuned_store.records("tiny")) == []


def test_trials_do_not_read_the_test_split(home: Path, tuned_store: RunStore) -> None:
    searches = searches_of(home, num_trials=1)
    replay(searches, tuned_store, Executor(tuned_store))
    for record in searches[0].records:
        assert record.result is not None
        assert (record.result.test, record.result.bins, record.result.predictions_sha256) == ({}, (), "")
        assert record.result.dev["auc"] == score(record)
        assert not tuned_store.predictions_file(record.key).exists()


def test_a_failed_trial_counts_and_is_not_repeated(home: Path, tuned_store: RunStore) -> None:
    def fail(missing: list[Run]) -> None:
        for run in missing:
            tuned_store.write(failed_record(run, "out of memory"))

    searches = searches_of(home)
    replay(searches, tuned_store, fail)
    assert [score(record) for record in searches[0].records] == [None] * 4
    assert searches[0].best is None
    again = Executor(tuned_store)
    replay(searches_of(home), tuned_store, again)
    assert again.executed == [0]


def test_settings_of_the_selector_are_not_tuned(home: Path) -> None:
    (search,) = searches_of(home, ["star[dropout=0.1]"])
    assert "dropout" not in search.space
    trials = search.next_round()
    assert {trial.key.method.settings["dropout"] for trial in trials} == {0.1}


def test_the_indicator_is_tuned_where_the_method_has_one(home: Path) -> None:
    star, plain = searches_of(home, ["star", "plain"])
    assert star.space["indicator"] == Choices("shop", "item", "all")
    assert "indicator" not in plain.space
    assert {trial.key.indicator for trial in plain.next_round()} == {"shop"}


def test_a_method_without_a_space_has_its_default_only(home: Path) -> None:
    (search,) = searches_of(home)
    search.space = {}
    assert search.num_planned == len(search.next_round()) == 1


def test_runs_get_the_settings_of_the_best_trial(home: Path, tuned_store: RunStore) -> None:
    searches = searches_of(home)
    replay(searches, tuned_store, Executor(tuned_store))
    best = searches[0].best
    assert best is not None
    runs = runs_of(home, ["plain"], seed=7)
    grid = Grid(prepared=open_prepared("tiny", home / "home"), runs=runs, missing=runs)
    (run,) = with_tuned_settings(Experiment(grids=(grid,), config=CONFIG, store=tuned_store)).runs
    assert (run.key.method, run.key.indicator) == (best.key.method, best.key.indicator)
    assert (run.key.seed, run.key.is_trial) == (7, False)
    assert run.label == "plain, tuned × dnn[hidden=2], seed 7"


def test_runs_without_trials_are_refused(home: Path, tuned_store: RunStore) -> None:
    runs = runs_of(home, ["star"])
    grid = Grid(prepared=open_prepared("tiny", home / "home"), runs=runs, missing=runs)
    with pytest.raises(ValueError, match="ctrbench tune --methods star"):
        with_tuned_settings(Experiment(grids=(grid,), config=CONFIG, store=tuned_store))


def test_importances_need_enough_trials(home: Path, tuned_store: RunStore) -> None:
    few, many = searches_of(home, num_trials=9), searches_of(home, num_trials=12)

    def record(missing: list[Run]) -> None:
        for run in missing:
            execute(run, tuned_store)

    replay(few, tuned_store, record)
    replay(many, tuned_store, record)
    assert few[0].importances() == []
    assert many[0].importances()[0][1] > 0
