"""Runs with the settings that tuning chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ctrbench.errors import SettingError
from ctrbench.runs.experiment import Experiment, Grid
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.trials import best_of, by_search, search_of


def with_tuned_settings(experiment: Experiment) -> Experiment:
    """Return the experiment with the best settings of each method on each backbone in place of the given ones.

    Raises `SettingError` if a method has no finished trial under the conditions of the experiment.
    """
    trials = by_search(experiment.store.trials(experiment.dataset))
    grids = tuple(_with_tuned_settings(grid, experiment, trials) for grid in experiment.grids)
    return replace(experiment, grids=grids)


def _with_tuned_settings(grid: Grid, experiment: Experiment, trials: Mapping[str, list[RunRecord]]) -> Grid:
    runs = {run.key.digest: run for run in (_tuned(run, trials) for run in grid.runs)}
    return replace(grid, runs=tuple(runs.values()), missing=tuple(experiment.store.unfinished(runs.values())))


def _tuned(run: Run, trials: Mapping[str, list[RunRecord]]) -> Run:
    if run.unsupported:
        return run
    best = best_of(trials.get(search_of(run.key), []))
    if best is None:
        method, backbone = run.labels
        raise SettingError(
            "tuned settings must come from finished trials",
            value=f"{method} × {backbone} has none with this data and training",
            remedy=f"run: ctrbench tune --methods {method} --backbone {backbone} --dataset {run.key.dataset}",
        )
    key = run.key.model_copy(update={"method": best.key.method, "indicator": best.key.indicator})
    return replace(run, key=key, note=f"{run.note}, tuned")
