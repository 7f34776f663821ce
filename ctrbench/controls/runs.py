"""The control runs of an experiment, beside the runs of its methods.

- shuffled domains: each method that conditions on domains, with the domains of other rows;
- equal cost: plain on backbones as wide as the methods are costly;
- plain with the normalization and the auxiliary network of a method that has them, as an ordinary row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby

from pydantic import ValidationError

from ctrbench.controls.conditions import conditions_on_domains
from ctrbench.controls.equal_cost import grouped_by_cost, widths_at_cost
from ctrbench.cost.explain import PairCost, pair_costs, sequence_lengths
from ctrbench.cost.tree import total_cost
from ctrbench.data.prepared import Prepared
from ctrbench.plugins.base import Backbone
from ctrbench.plugins.registry import select
from ctrbench.runs.experiment import Experiment, Grid
from ctrbench.runs.grid import Run, to_choice
from ctrbench.runs.record import EQUAL_COST, SHUFFLED_DOMAINS
from ctrbench.runs.schema import make_schema

PLAIN = "plain"


def with_controls(experiment: Experiment) -> Experiment:
    """Return the experiment with the control runs of each of its grids."""
    grids = tuple(_with_controls(grid, experiment) for grid in experiment.grids)
    return replace(experiment, grids=grids)


def _with_controls(grid: Grid, experiment: Experiment) -> Grid:
    planned = {run.key.digest for run in grid.runs}
    runs = (*grid.runs, *_plain_with_parts(grid.runs))
    controls = [*runs, *_shuffled(grid.prepared, runs), *_at_equal_cost(grid.prepared, runs)]
    unique: dict[str, Run] = {}
    for run in controls:
        unique.setdefault(run.key.digest, run)
    ordered = sorted(unique.values(), key=lambda run: run.key.seed)
    missing = {run.key.digest for run in grid.missing}
    added = [run for run in ordered if run.key.digest not in planned]
    missing |= {run.key.digest for run in experiment.store.unfinished(added)}
    return replace(
        grid, runs=tuple(ordered), missing=tuple(run for run in ordered if run.key.digest in missing)
    )


def _plain_with_parts(runs: Iterable[Run]) -> Iterator[Run]:
    """Yield plain with the parts of each method that has an auxiliary network or a normalization of its own.

    Partitioned normalization becomes normalization by batch, which does not tell domains apart.
    """
    for run in runs:
        method, _ = run.chosen()
        norm, aux = ("bn" if method.norm == "pn" else method.norm), method.aux
        if run.key.method.name == PLAIN or run.unsupported or not (norm or aux):
            continue
        parts = ",".join(f"{name}={value}" for name, value in (("norm", norm), ("aux", aux)) if value)
        plain = select("methods", f"{PLAIN}[{parts}]")
        yield replace(
            run,
            key=run.key.model_copy(update={"method": to_choice(plain)}),
            method=plain.plugin,
            requested=(plain.label, run.labels[1]),
        )


def _shuffled(prepared: Prepared, runs: Iterable[Run]) -> Iterator[Run]:
    """Yield the control of each run whose method conditions on domains; a backbone makes no difference to that."""
    conditions: dict[str, bool] = {}
    for run in runs:
        if run.unsupported:
            continue
        method, backbone = run.chosen()
        digest = run.key.method.digest
        if digest not in conditions:
            schema = make_schema(prepared, run.key)
            conditions[digest] = conditions_on_domains(method, backbone.full_plan(), schema)
        if conditions[digest]:
            key = run.key.model_copy(update={"control": SHUFFLED_DOMAINS})
            yield replace(run, key=key, note=f", {SHUFFLED_DOMAINS}")


def _at_equal_cost(prepared: Prepared, runs: Sequence[Run]) -> Iterator[Run]:
    """Yield plain at the cost of the methods of each backbone; methods of nearly equal cost share a run per seed."""
    pairs = {pair.group: pair for pair in pair_costs(prepared, runs)}
    by_backbone = sorted(runs, key=lambda run: run.key.backbone.digest)
    for _, group in groupby(by_backbone, key=lambda run: run.key.backbone.digest):
        of_backbone = list(group)
        costs = {
            pair.method: pair.cost.row
            for run in of_backbone
            if (pair := pairs[run.group]).cost is not None and run.key.method.name != PLAIN
        }
        seeds = tuple(dict.fromkeys(run.key.seed for run in of_backbone))
        for widths, methods in _methods_by_widths(prepared, of_backbone[0], costs).items():
            yield from _plain_with_widths(of_backbone[0], widths, methods, seeds)


def _methods_by_widths(
    prepared: Prepared, run: Run, costs: Mapping[str, int]
) -> dict[tuple[int, ...], list[str]]:
    """Return the widths of plain at the cost of methods on the run's backbone, with the names of these methods."""
    schema, (lengths, _) = make_schema(prepared, run.key), sequence_lengths(prepared)

    @cache
    def cost_of(widths: tuple[int, ...]) -> int:
        return total_cost(_with_widths(run, widths).full_plan(), schema, lengths=lengths).row

    _, backbone = run.chosen()
    methods_by_widths: dict[tuple[int, ...], list[str]] = {}
    for cost, methods in grouped_by_cost(costs.items()):
        try:
            widths = widths_at_cost(backbone.hidden, cost, cost_of)
        except ValidationError:  # a backbone that refuses some widths has no such control
            continue
        if widths is not None:
            methods_by_widths.setdefault(widths, []).extend(methods)
    return methods_by_widths


def _with_widths(run: Run, widths: tuple[int, ...]) -> Backbone:
    """Return the run's backbone with other widths of the tower."""
    settings = {**run.key.backbone.settings, "hidden": widths}
    backbone: Backbone = run.backbone.load().model_validate(settings)
    return backbone


def _plain_with_widths(
    run: Run, widths: tuple[int, ...], methods: Sequence[str], seeds: Sequence[int]
) -> Iterator[Run]:
    """Yield plain on the run's backbone with other widths, one run per seed."""
    plain, settings = select("methods", PLAIN), _with_widths(run, widths).key()
    backbone = run.key.backbone.model_copy(update={"settings": settings})
    update = {"method": to_choice(plain), "backbone": backbone, "control": EQUAL_COST}
    label = f"{run.key.backbone.name}[hidden={'-'.join(map(str, widths))}]"
    for seed in seeds:
        yield Run(
            key=run.key.model_copy(update={**update, "seed": seed}),
            method=plain.plugin,
            backbone=run.backbone,
            requested=(PLAIN, label),
            note=f" at the cost of {', '.join(methods)}",
        )


def with_costs(experiment: Experiment, pairs: Iterable[PairCost]) -> Experiment:
    """Return the experiment with the multiply-adds per row that its runs then record."""
    costs = {pair.group: pair.cost.row for pair in pairs if pair.cost is not None}

    def costed(runs: Sequence[Run]) -> tuple[Run, ...]:
        return tuple(replace(run, multiply_adds=costs.get(run.group)) for run in runs)

    grids = tuple(
        replace(grid, runs=costed(grid.runs), missing=costed(grid.missing)) for grid in experiment.grids
    )
    return replace(experiment, grids=grids)
