"""Forecast of the cost of runs before they start: parameters, multiply-adds, and the memory of the largest run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctrbench.cost.explain import PairCost, pair_costs
from ctrbench.errors import SettingError
from ctrbench.runs.engines.capacity import STATE_BYTES, run_memory
from ctrbench.train.config import TrainConfig

if TYPE_CHECKING:
    from ctrbench.data.prepared import Prepared
    from ctrbench.runs.experiment import Experiment
    from ctrbench.runs.grid import Run


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Cost of each method × backbone of some runs."""

    pairs: tuple[PairCost, ...]
    memory: int
    """Approximate memory of the largest run, in bytes; 0 where no cost is known."""

    def raise_refusal(self) -> None:
        """Raise the first error of a method that refuses its settings, the data or several workers."""
        for pair in self.pairs:
            if pair.refusal is not None:
                raise pair.refusal

    def check_memory(self, memory: int | None, *, workers: int = 1) -> None:
        """Raise `SettingError` if the weights and optimizer state of a run exceed the memory; None is unknown.

        `memory` is that of the whole machine, in bytes: a run beyond it cannot succeed, even alone.
        """
        for pair in self.pairs:
            num_parameters = 0 if pair.cost is None else pair.cost.num_parameters
            needed = num_parameters * STATE_BYTES * workers
            if memory is not None and needed > memory:
                processes = f" in each of {workers} workers" if workers > 1 else ""
                raise SettingError(
                    "the weights and the optimizer state of a run must fit into memory",
                    value=f"{pair.method} × {pair.backbone} has {num_parameters:,} parameters, "
                    f"{needed / workers / 1e9:,.1f} GB{processes}; this machine has {memory / 1e9:,.1f} GB",
                    remedy="choose smaller widths (hidden=…) or --embedding-size, fewer domains (--domains, "
                    "--indicator), or a machine with more memory",
                )


def forecasts(experiment: Experiment, *, workers: int = 1) -> Iterator[Forecast]:
    """Yield the cost of the missing runs of each grid; grids without missing runs are left out."""
    for grid in experiment.grids:
        if grid.missing:
            yield forecast(grid.prepared, grid.missing, workers=workers)


def forecast(prepared: Prepared, runs: Sequence[Run], *, workers: int = 1) -> Forecast:
    """Return the cost of runs that share one dataset, one training configuration and the number of workers."""
    costs = tuple(pair_costs(prepared, runs, workers=workers))
    config = TrainConfig.model_validate(runs[0].key.train)
    sizes = [
        run_memory(prepared, config, pair.cost.num_parameters) for pair in costs if pair.cost is not None
    ]
    return Forecast(pairs=costs, memory=max(sizes, default=0))
