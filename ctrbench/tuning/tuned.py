"""Runs with the settings that tuning chose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ctrbench.errors import SettingError
from ctrbench.runs.experiment import Experiment, Grid
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunKey, RunRecord
from ctrbench.tuning.search import best_of


def with_tuned_settings(experiment: Experiment) -> Experiment:
    """Return the experiment with the best settings of each method on each backbone in place of the given ones.

    Raises `SettingError` if a method has no finished trial under the conditions of the experiment.
    """
    trials = list(experiment.store.trials(experiment.dataset))
    grids = tuple(_with_tuned_settings(grid, experiment, trials) for grid in experiment.grids)
    return replace(experiment, grids=grids)


def _with_tuned_settings(grid: Grid, experiment: Experiment, trials: list[RunRecord]) -> Grid:
    runs = {run.key.digest: run for run in (_tuned(run, trials) for run in grid.runs)}
    return replace(grid, runs=tuple(runs.values()), missing=tuple(experiment.store.unfinished(runs.values())))


def _tuned(run: Run, trials: Iterable[RunRecord]) -> Run:
    if run.unsupported:
        return run
    best = best_of([trial for trial in trials if is_trial_of(trial.key, run.key)])
    if best is None:
        method, backbone = run.labels
        raise SettingError(
            "tuned settings must come from finished trials",
            value=f"{method} × {backbone} has none with this data and training",
            remedy=f"run: ctrbench tune --methods {method} --backbone {backbone} --dataset {run.key.dataset}",
        )
    key = run.key.model_copy(update={"method": best.key.method, "indicator": best.key.indicator})
    return replace(run, key=key, note=f"{run.note}, tuned")


def is_trial_of(trial: RunKey, key: RunKey) -> bool:
    """Return whether a trial is one of the method, backbone, data and training of a run."""
    same = {"method": key.method, "indicator": key.indicator, "seed": key.seed, "is_trial": key.is_trial}
    is_same_method = (trial.method.name, trial.method.source) == (key.method.name, key.method.source)
    return is_same_method and trial.model_copy(update=same) == key
