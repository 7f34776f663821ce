"""Experiments: runs that share one training configuration, those of them that are missing, and their execution.

`plan_runs` makes one from the names and values that a user gives; `studies.plan` makes one from a study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.data.selection import choose_domains
from ctrbench.plugins.registry import expand, selectors
from ctrbench.runs.engines.protocol import Engine, Watcher
from ctrbench.runs.grid import (
    Run,
    check_choices,
    check_pairs,
    find_preset,
    make_config,
    make_grid,
    parse_seeds,
    parse_window,
    with_tower,
)
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Runs on one dataset with one domain set, and those of them to execute."""

    prepared: Prepared
    runs: tuple[Run, ...]
    missing: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Grids of runs with one training configuration, and the store of their records."""

    grids: tuple[Grid, ...]
    config: TrainConfig
    store: RunStore
    num_repeated: int = 0
    """Number of runs that were named although another one named has the same key."""

    @property
    def dataset(self) -> str:
        """Name of the dataset, the same for all grids."""
        return self.grids[0].prepared.manifest.name

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of all grids."""
        return tuple(run for grid in self.grids for run in grid.runs)

    @property
    def missing(self) -> tuple[Run, ...]:
        """The runs to execute."""
        return tuple(run for grid in self.grids for run in grid.missing)

    def execute(self, engine: Engine, watcher: Watcher) -> list[RunRecord]:
        """Execute the missing runs; return their records in the order of completion."""
        if self.missing:
            self.store.create()
        self.store.remove_leftovers()
        self.store.remove_checkpoints([run.key for run in self.runs if run not in self.missing])
        return engine.run(self.missing, self.store, watcher)

    def records(self) -> list[tuple[Run, RunRecord | None]]:
        """Return each run with its record; None for a run without a record."""
        return [(run, self.store.find(run.key)) for run in self.runs]


def plan_runs(
    store: RunStore,
    *,
    dataset: str,
    domains: str | None = None,
    methods: str,
    backbones: str,
    seeds: str,
    indicator: str | None = None,
    preset: str | None = None,
    window: str | None = None,
    settings: Mapping[str, object],
) -> Experiment:
    """Return the runs of methods × backbones × seeds, given as in the options of `ctrbench run`.

    `settings` are fields of `TrainConfig`; None takes the value of the preset, if there is one, or the default.
    Raises `SettingError` for an unknown name or value and `DataError` for a dataset that is not prepared.
    """
    seed_list, setup = parse_seeds(seeds), find_preset(preset)
    method_list = selectors("methods", methods)
    backbone_list = with_tower(selectors("backbones", backbones), setup.hidden)
    prepared = open_prepared(dataset)
    config = make_config(**setup.under(**settings, window=parse_window(window, prepared)))
    # A domain set is added to the dataset, so all else is checked before.
    check_choices(prepared.manifest.card, methods=method_list, backbones=backbone_list, indicator=indicator)
    check_pairs(method_list, backbone_list)
    prepared, domain_set = choose_domains(prepared, domains)
    runs = make_grid(
        prepared,
        methods=method_list,
        backbones=backbone_list,
        seeds=seed_list,
        domain_set=domain_set,
        indicator=indicator,
        config=config,
    )
    grid = Grid(prepared=prepared, runs=runs, missing=tuple(store.unfinished(runs)))
    num_named = len(expand("methods", methods)) * len(expand("backbones", backbones)) * len(seed_list)
    return Experiment(grids=(grid,), config=config, store=store, num_repeated=num_named - len(runs))
