"""Forecast of the cost of runs before they start: parameters, multiply-adds, and the memory of the largest run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctrbench.cost.explain import PairCost, pair_costs
from ctrbench.runs.engines.capacity import run_memory
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
        """Raise the first error of a method that refuses its settings or the data."""
        for pair in self.pairs:
            if pair.refusal is not None:
                raise pair.refusal


def forecasts(experiment: Experiment) -> Iterator[Forecast]:
    """Yield the cost of the missing runs of each grid; grids without missing runs are left out."""
    for grid in experiment.grids:
        if grid.missing:
            yield forecast(grid.prepared, grid.missing)


def forecast(prepared: Prepared, runs: Sequence[Run]) -> Forecast:
    """Return the cost of runs that share one dataset and one training configuration."""
    costs = tuple(pair_costs(prepared, runs))
    config = TrainConfig.model_validate(runs[0].key.train)
    sizes = [
        run_memory(prepared, config, pair.cost.embedding + pair.cost.shared + pair.cost.per_domain)
        for pair in costs
        if pair.cost is not None
    ]
    return Forecast(pairs=costs, memory=max(sizes, default=0))
