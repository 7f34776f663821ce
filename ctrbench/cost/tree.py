"""The cost of a plan as a tree: its sections, their stages, and the modules within, with shapes and costs.

Nothing is estimated: the model is built for the schema of the data and run on synthetic rows. The cost of a row is the
difference between two batches of one domain, so it includes routing and excludes padding. The rest of a batch's cost
does not depend on its number of rows: it occurs once per batch, or once per domain in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from ctrbench.cost.model import NO_LENGTHS, Lengths, build_unfilled, mixed_batch, single_domain_batch
from ctrbench.cost.parameters import Cost, Owners, parameter_cost
from ctrbench.cost.products import TracePair, trace
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Stage
from ctrbench.nn.tables import RowTable

ROWS = (8, 16)
"""Sizes of two batches of one domain; the difference of their costs gives the cost of a row."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Node of a tree: a section of the plan, a stage, or a module within a stage."""

    name: str
    kind: str = ""
    """Name of the stage's or the module's class."""
    num_inputs: int | None = None
    num_outputs: int | None = None
    cost: Cost
    stage: Stage | None = None
    """Stage of the plan; None for sections and inner modules."""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlanCost:
    """A plan as a tree, with its total cost."""

    sections: tuple[Part, ...]
    join: str
    """How interactions and tower are joined; empty without interactions."""
    cost: Cost
    batch_rows: int
    batch: int
    """Multiply-adds of a batch of `batch_rows` rows of many domains, padding included."""
    batch_domains: int
    """Number of indicator values in that batch."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages of the plan, in order."""
        parts = (part for section in self.sections for part in section.parts)
        return tuple(part.stage for part in parts if part.stage is not None)


def plan_cost(
    plan: Plan, schema: Schema, *, batch_rows: int = 256, lengths: Lengths = NO_LENGTHS
) -> PlanCost:
    """Build a plan for a schema, run it, and return the cost of each stage; errors of building are not caught."""
    model = build_unfilled(plan, schema)
    small, large = (trace(model, single_domain_batch(schema, rows, lengths)) for rows in ROWS)
    traces, owners = TracePair(small, large), model.owners()
    mixed = mixed_batch(schema, batch_rows, lengths)
    return PlanCost(
        sections=(_embedding_part(model, owners, traces), *_plan_sections(plan, model, owners, traces)),
        join=plan.join if plan.interactions else "",
        cost=_total_cost(model, traces),
        batch_rows=batch_rows,
        batch=trace(model, mixed).macs[model],
        batch_domains=len(set(mixed.indicator_B.tolist())),
    )


def total_cost(plan: Plan, schema: Schema, *, lengths: Lengths = NO_LENGTHS) -> Cost:
    """Return the total cost of a plan; errors of building the model are not caught."""
    model = build_unfilled(plan, schema)
    small, large = (trace(model, single_domain_batch(schema, rows, lengths), (model,)) for rows in ROWS)
    return _total_cost(model, TracePair(small, large))


def _total_cost(model: CTRModel, traces: TracePair) -> Cost:
    counts = model.num_parameters()
    row, once = traces.macs(model)
    return Cost(
        embedding=counts["embedding"],
        shared=counts["dense"],
        per_domain=counts["per_domain"],
        row=row,
        once=once,
    )


def _embedding_part(model: CTRModel, owners: Owners, traces: TracePair) -> Part:
    schema = model.schema
    num_fields = len(schema.slices)
    poolings = tuple(_poolings(model, owners, traces))
    tables = [module for module in model.embedding.modules() if isinstance(module, RowTable)]
    ids = Part(name="ids", kind="RowTable", cost=parameter_cost(tables, owners))
    return Part(
        name="embeddings",
        kind=f"{num_fields} field{'' if num_fields == 1 else 's'}",
        num_outputs=schema.num_inputs,
        cost=sum((part.cost for part in (ids, *poolings)), Cost()),
        parts=(ids, *poolings) if poolings else (),
    )


def _poolings(model: CTRModel, owners: Owners, traces: TracePair) -> Iterator[Part]:
    """Yield the module that pools each sequence, if it is more than the mean."""
    for index, name in enumerate(model.schema.targets):
        # Where each domain has its own pooling, only one of them ran; it comes first.
        copies = sorted(
            model.embedding.pooling_copies(index), key=lambda module: traces.small.macs[module], reverse=True
        )
        if not copies:
            return
        row, once = traces.macs(copies[0])
        yield Part(
            name=f"pooling of {name}",
            kind=type(copies[0]).__name__,
            num_outputs=model.schema.embedding_size,
            cost=replace(parameter_cost(copies, owners), row=row, once=once),
        )


def _plan_sections(plan: Plan, model: CTRModel, owners: Owners, traces: TracePair) -> Iterator[Part]:
    # Where each domain has its own network, only one of them ran; it comes first.
    networks = sorted(model.net.networks, key=lambda network: traces.small.macs[network], reverse=True)
    modules = [network.sections for network in networks]
    for name, stages in plan.sections.items():
        parts = tuple(
            _describe_part(stage.name, [sections[name][index] for sections in modules], owners, traces, stage)
            for index, stage in enumerate(stages)
        )
        if parts:
            cost = sum((part.cost for part in parts), Cost())
            yield Part(name=name.replace("_", " "), cost=cost, parts=parts)


def _describe_part(
    name: str, copies: Sequence[nn.Module], owners: Owners, traces: TracePair, stage: Stage | None = None
) -> Part:
    """Describe a module and the modules within that ran; `copies` are the same module of all domains."""
    module = copies[0]
    row, once = traces.macs(module)
    num_inputs, num_outputs = traces.small.widths.get(module, (None, None))
    inner = {path: [copy.get_submodule(path) for copy in copies] for path in _inner_paths(module, traces)}
    return Part(
        name=name,
        kind=type(stage or module).__name__.removesuffix("Module"),
        num_inputs=num_inputs,
        num_outputs=num_outputs,
        cost=replace(parameter_cost(copies, owners), row=row, once=once),
        stage=stage,
        parts=tuple(_describe_part(path, modules, owners, traces) for path, modules in inner.items()),
    )


def _inner_paths(module: nn.Module, traces: TracePair) -> Iterator[str]:
    """Yield the paths of the nearest modules within that ran and have parameters."""
    for name, child in module.named_children():
        if child in traces.small.widths:
            if any(True for _ in child.parameters()):
                yield name
        else:
            yield from (f"{name}.{path}" for path in _inner_paths(child, traces))
