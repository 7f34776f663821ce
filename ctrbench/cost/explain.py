"""What a plan costs: its stages as a tree with shapes, parameters and multiply-adds, before and after a rewrite.

Nothing is estimated: the model is built for the schema of the data and run on made-up rows, and what its matrix
products multiply is counted at each stage. A row's own cost is the difference between batches of two sizes, all rows of
one domain, so it holds what is routed and no padding; what is left is made once a batch, or once for each domain in it,
whatever the number of rows. Sequences that have a target are as long as they are on average in the data, all other
lists have one element. Element-wise work and compiled loops are left out. Large tables are never filled, so this takes
milliseconds and no memory, however many ids and domains there are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from ctrbench.data.batches import Batch
from ctrbench.errors import SettingError
from ctrbench.names import Split
from ctrbench.nn.model import CTRModel, Owner
from ctrbench.nn.plan import Plan, Schema, Stage
from ctrbench.nn.pooling import SequencePooling
from ctrbench.nn.separate import SeparateNetworks
from ctrbench.nn.tables import RowTable
from ctrbench.plugins.base import Estimator
from ctrbench.plugins.registry import Plugin, select
from ctrbench.runs.grid import Run, make_grid
from ctrbench.runs.inputs import field_shapes, make_schema
from ctrbench.speed.bounds import MORE_PRODUCTS
from ctrbench.speed.workload import synthetic

if TYPE_CHECKING:
    from ctrbench.data.shards import Prepared
    from ctrbench.plugins.base import Method
    from ctrbench.train.config import TrainConfig

SEED = 1
ROWS = (8, 16)
"""Rows of the two batches of one domain whose difference is the cost of a row."""
PLACES = ("at_input", "interactions", "tower", "head", "logits")
"""Where stages stand in a plan, in the order in which they run."""
MADE_UP_ROWS = 20_000
"""Rows that say how large the made-up domains are, those of `ctrbench bench`."""
LARGE = 1 << 16
"""Numbers from which on a tensor stays unfilled."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters, and multiply-adds of matrix products in a forward pass."""

    embedding: int = 0
    shared: int = 0
    per_domain: int = 0
    row: int = 0
    """Multiply-adds of one row."""
    once: int = 0
    """Multiply-adds of a batch of one domain beyond those of its rows."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Part:
    """One row of a tree: a place of the plan, a stage, or a part within a stage."""

    name: str
    kind: str = ""
    num_inputs: int | None = None
    num_outputs: int | None = None
    cost: Cost
    stage: Stage | None = None
    """What the plan says of it."""
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Account:
    """A plan as a tree, and what it costs in all."""

    places: tuple[Part, ...]
    join: str
    cost: Cost
    batch_rows: int
    batch: int
    """Multiply-adds of a batch of that many rows of many domains, padding included."""
    batch_domains: int

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages of the plan, in order."""
        return tuple(part.stage for place in self.places for part in place.parts if part.stage is not None)


Lengths = Mapping[str, int]
"""Elements of each list of a field; one where a field is left out."""


def account(
    plan: Plan, schema: Schema, *, batch_rows: int = 256, lengths: Lengths = MappingProxyType({})
) -> Account:
    """Build a plan for a schema, run it and return what each of its stages costs; raises what building raises."""
    model = _build(plan, schema)
    one, two = (_trace(model, _one_domain(schema, rows, lengths)) for rows in ROWS)
    tally, owners = _Tally(one, two), model.owners()
    mixed = _mixed(schema, batch_rows, lengths)
    return Account(
        places=(_embeddings(model, owners, tally), *_places(plan, model, owners, tally)),
        join=plan.join if plan.interactions else "",
        cost=_total(model, tally),
        batch_rows=batch_rows,
        batch=_trace(model, mixed).macs[model],
        batch_domains=len(set(mixed.indicator_B.tolist())),
    )


def total(plan: Plan, schema: Schema, *, lengths: Lengths = MappingProxyType({})) -> Cost:
    """Return what a plan costs in all; raises what building raises."""
    model = _build(plan, schema)
    one, two = (_trace(model, _one_domain(schema, rows, lengths), (model,)) for rows in ROWS)
    return _total(model, _Tally(one, two))


def _total(model: CTRModel, tally: _Tally) -> Cost:
    counts = model.num_parameters()
    row, once = tally.of(model)
    return Cost(
        embedding=counts["embedding"],
        shared=counts["dense"],
        per_domain=counts["per_domain"],
        row=row,
        once=once,
    )


# A method on a backbone, before and after.


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a method makes of a backbone."""

    method: str
    backbone: str
    data: str
    """Which data the plans are built for."""
    indicator: str
    """What per-domain parameters go by; empty where there are none."""
    before: Account
    after: Account


def explain(
    method: str,
    backbone: str,
    *,
    prepared: Prepared | None = None,
    domain_set: str = "default",
    indicator: str | None = None,
    config: TrainConfig,
) -> Explanation:
    """Hold a method's plan against its backbone's, for prepared data or, where there are none, for made-up ones.

    Raises `SettingError` for what cannot be chosen, and where the method does not support the backbone.
    """
    chosen, base = select("methods", method), select("backbones", backbone)
    rewriter: Method = chosen.value  # type: ignore[assignment]
    plan = base.value.full_plan()  # type: ignore[union-attr]
    reason = rewriter.supports(plan)
    if reason is not None:
        raise SettingError(f"{chosen.label} does not go with {base.label}", value=reason)
    if prepared is None:
        schema = synthetic(rows=MADE_UP_ROWS, embedding_size=config.embedding_size).schema
        data, goes_by = "made-up data, since nothing is prepared", "the made-up domain"
        lengths, said = dict[str, int](), ""
    else:
        (run, *_) = make_grid(
            prepared, methods=(method,), backbones=(backbone,), seeds=(SEED,),
            domain_set=domain_set, indicator=indicator, config=config,
        )  # fmt: skip
        schema, goes_by = make_schema(prepared, run.key), run.key.indicator
        data = f"{prepared.manifest.name}, domains by {' × '.join(run.key.domain_features)}"
        lengths, said = sequence_lengths(prepared)
    rewritten = rewriter.apply(plan)
    after = account(rewritten, schema, batch_rows=config.batch_size, lengths=lengths)
    return Explanation(
        method=chosen.label,
        backbone=base.label,
        data=f"{data}: {len(schema.slices)} fields, {schema.num_domains:,} domains{said}",
        indicator=_goes_by(after.cost, chosen.plugin, goes_by, schema),
        before=account(plan, schema, batch_rows=config.batch_size, lengths=lengths),
        after=after,
    )


def _goes_by(cost: Cost, plugin: Plugin, indicator: str, schema: Schema) -> str:
    """Name what a method tells domains apart by, and how many values it has; empty where it does not.

    Methods whose learner does so, or that hold what is a domain's own in one dense tensor, say so in their file.
    """
    said = f"{plugin.tag('Conditions on')} {plugin.tag('Grows with domains')}"
    if "composite domain" in said:
        return f"domains ({schema.num_domains:,})"
    return f"{indicator} ({schema.num_indicators:,})" if cost.per_domain or "indicator p" in said else ""


# What runs will cost.


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A method on a backbone: what it costs beside the backbone alone, or why that cannot be said."""

    method: str
    backbone: str
    cost: Cost | None = None
    plain: Cost | None = None
    indicator: str = ""
    """What per-domain parameters go by, and how many values it has; empty where the method has none."""
    reason: str = ""
    refusal: SettingError | None = None
    """The method refuses these settings or these data."""

    @property
    def times_plain(self) -> float | None:
        """Multiply-adds of a row in relation to the backbone's."""
        return self.cost.row / self.plain.row if self.cost and self.plain and self.plain.row else None


def pairs(prepared: Prepared, runs: Iterable[Run]) -> Iterator[Pair]:
    """Say of each method × backbone of the runs what it costs; nothing that a plug-in raises ends it."""
    first = {(run.key.method.digest, run.key.backbone.digest): run for run in runs}
    plain: dict[str, Cost] = {}
    lengths, _ = sequence_lengths(prepared)
    for run in first.values():
        schema, (method, backbone) = make_schema(prepared, run.key), run.chosen()
        pair = Pair(method=run.labels[0], backbone=run.labels[1], reason=run.unsupported or "")
        if isinstance(method, Estimator):
            pair = replace(pair, reason=pair.reason or "no network; its size is known once it is fitted")
        if pair.reason:
            yield pair
            continue
        try:
            if run.key.backbone.digest not in plain:
                plain[run.key.backbone.digest] = total(backbone.full_plan(), schema, lengths=lengths)
            cost = total(method.apply(backbone.full_plan()), schema, lengths=lengths)
        except SettingError as refusal:
            yield replace(pair, reason=str(refusal), refusal=refusal)
        except Exception as problem:  # noqa: BLE001  # the run will fail of it and its record say so
            yield replace(pair, reason=f"{type(problem).__name__}: {problem}")
        else:
            indicator = _goes_by(cost, run.method, run.key.indicator, schema)
            yield replace(pair, cost=cost, plain=plain[run.key.backbone.digest], indicator=indicator)


def sequence_lengths(prepared: Prepared) -> tuple[dict[str, int], str]:
    """Return the usual length of each sequence that has a target, and a clause that says where it comes from.

    That is the mean of the last training shard, or, of rows that are generated when they are read, the card's most.
    """
    names = [field.name for field in field_shapes(prepared) if field.target is not None]
    if not names:
        return {}, ""
    shards = prepared.manifest.splits[Split.TRAIN].shards
    if shards[-1].sha256:
        table = prepared.read_shard(Split.TRAIN, len(shards) - 1, names, verify=False)
        means = {name: pc.list_flatten(table[name]).length() / table.num_rows for name in names}
        lengths, source = {name: max(1, round(mean)) for name, mean in means.items()}, "the last rows' mean"
    else:
        most = {field.name: field.max_length or 1 for field in prepared.manifest.card.fields}
        lengths, source = {name: most[name] for name in names}, "the card's max_length"
    listed = ", ".join(f"{length} elements in {name}" for name, length in lengths.items())
    return lengths, f"; {listed} ({source})"


# Building without filling.


class _Unfilled(TorchFunctionMode):
    """Gives all large tensors the same memory, and leaves them as they are: nobody will ask what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = torch.zeros(0)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401  # whatever the function returns
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_) and args[0].numel() >= LARGE:
            return args[0]
        if func is torch.Tensor.clone and args[0].numel() >= LARGE:
            return self._blank(args[0].shape, args[0].dtype)
        if func is torch.cat and sum(part.numel() for part in args[0]) >= LARGE:
            return self._joined(*args, **kwargs)
        return func(*args, **kwargs)

    def _joined(self, parts: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
        shape = list(parts[0].shape)
        shape[dim] = sum(part.shape[dim] for part in parts)
        return self._blank(shape, parts[0].dtype)

    def _blank(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        if dtype != self.memory.dtype:
            return torch.zeros(shape, dtype=dtype)
        if len(self.memory) < math.prod(shape):
            # Unlike torch's, numpy's zeros take no memory until they are written to.
            self.memory = torch.from_numpy(np.zeros(math.prod(shape), dtype=np.float32))
        return self.memory[: math.prod(shape)].view(shape)


@cache
def _unfilled() -> _Unfilled:
    return _Unfilled()


def _build(plan: Plan, schema: Schema) -> CTRModel:
    with _unfilled():
        return CTRModel(plan, schema, seed=SEED).eval()


# Made-up rows: which ids they hold does not matter, which domains they are of does.


def _one_domain(schema: Schema, rows: int, lengths: Lengths) -> Batch:
    domain_B, indicator_B = (
        np.full(rows, one) for one in (min(1, schema.num_domains), schema.largest_indicator)
    )
    return _rows(schema, domain_B, indicator_B, lengths)


def _mixed(schema: Schema, rows: int, lengths: Lengths = MappingProxyType({})) -> Batch:
    """Draw rows as training does: indicators in proportion to their rows."""
    generator = np.random.default_rng(SEED)
    share = np.asarray(schema.indicator_rows, dtype=np.float64)
    share = share / share.sum() if share.sum() else np.full(len(share), 1.0 / len(share))
    indicator_B = generator.choice(len(share), rows, p=share)
    is_composite = schema.num_indicators == schema.num_domains
    domain_B = indicator_B if is_composite else generator.integers(1, schema.num_domains + 1, rows)
    return _rows(schema, domain_B, indicator_B, lengths)


def _rows(schema: Schema, domain_B: np.ndarray, indicator_B: np.ndarray, lengths: Lengths) -> Batch:
    rows, seen = len(domain_B), replace(schema, hidden=())
    ids_F = torch.tensor([min(1, field.size - 1) for field in seen.single_fields], dtype=torch.int32)
    return Batch(
        ids_BF=ids_F.expand(rows, -1).contiguous(),
        bags=tuple(_bag(min(1, one.size - 1), rows, lengths.get(one.name, 1)) for one in seen.bag_fields),
        numeric_BK=torch.zeros(rows, len(seen.numeric_fields)),
        domain_B=torch.from_numpy(domain_B.astype(np.int64)),
        indicator_B=torch.from_numpy(indicator_B.astype(np.int64)),
        label_B=torch.zeros(rows),
    )


def _bag(value: int, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((rows * length,), value, dtype=torch.int32), length * torch.arange(rows + 1)


# Counting.

_COUNTS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **{one: shape_wrapper(count) for one, count in MORE_PRODUCTS.items()},  # type: ignore[no-untyped-call]
}


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-adds as `FlopCounterMode` does, which takes a second to start."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and torch's compiler takes more than a second to import.
        return False

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: Sequence[Any] = (),
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401  # whatever the operation returns
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        count = _COUNTS.get(func.overloadpacket)
        if count is not None:
            self.macs += count(*args, **kwargs, out_val=made) // 2
        return made


@dataclass(frozen=True, kw_only=True)
class _Trace:
    """What each module did in one pass."""

    rows: int
    macs: Counter[nn.Module]
    widths: dict[nn.Module, tuple[int, int]]


@dataclass(frozen=True)
class _Tally:
    """Two passes over rows of one domain."""

    one: _Trace
    two: _Trace

    def of(self, module: nn.Module) -> tuple[int, int]:
        """Return the multiply-adds of a row, and those of a batch beyond its rows."""
        row = (self.two.macs[module] - self.one.macs[module]) // (self.two.rows - self.one.rows)
        return row, self.one.macs[module] - self.one.rows * row


def _trace(model: CTRModel, batch: Batch, watched: Iterable[nn.Module] | None = None) -> _Trace:
    trace = _Trace(rows=len(batch), macs=Counter(), widths={})
    with torch.no_grad(), _Products() as counter, _hooked(watched or model.modules(), counter, trace):
        model(batch)
    return trace


@contextmanager
def _hooked(modules: Iterable[nn.Module], counter: _Products, trace: _Trace) -> Iterator[None]:
    def enter(module: nn.Module, given: tuple[Any, ...]) -> None:
        trace.macs[module] -= counter.macs

    def leave(module: nn.Module, given: tuple[Any, ...], made: object) -> None:
        trace.macs[module] += counter.macs
        if given and isinstance(given[0], torch.Tensor) and isinstance(made, torch.Tensor) and made.dim():
            trace.widths[module] = (given[0].shape[-1], made.shape[-1])

    handles = []
    for module in modules:
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# From modules to a tree.

Owners = Mapping[nn.Parameter, Owner]
"""`CTRModel.owners()`."""


def _embeddings(model: CTRModel, owners: Owners, tally: _Tally) -> Part:
    schema = model.schema
    num_fields = len(schema.slices)
    poolings = tuple(_poolings(model, owners, tally))
    tables = [one for one in model.embedding.modules() if isinstance(one, RowTable)]
    ids = Part(name="ids", kind="RowTable", cost=_parameters(tables, owners))
    return Part(
        name="embeddings",
        kind=f"{num_fields} field{'' if num_fields == 1 else 's'}",
        num_outputs=schema.num_inputs,
        cost=sum((part.cost for part in (ids, *poolings)), Cost()),
        parts=(ids, *poolings) if poolings else (),
    )


def _poolings(model: CTRModel, owners: Owners, tally: _Tally) -> Iterator[Part]:
    """Describe what pools each sequence, where that is more than its mean."""
    found = [one for one in model.embedding.modules() if isinstance(one, SequencePooling)]
    for place, name in enumerate(model.schema.targets if found else ()):
        # Of poolings that domains have to themselves, each in this order, one ran; it comes first.
        copies = sorted(
            found[place :: len(model.schema.targets)], key=lambda one: tally.one.macs[one], reverse=True
        )
        row, once = tally.of(copies[0])
        yield Part(
            name=f"pooling of {name}",
            kind=type(copies[0]).__name__,
            num_outputs=model.schema.embedding_size,
            cost=replace(_parameters(copies, owners), row=row, once=once),
        )


def _places(plan: Plan, model: CTRModel, owners: Owners, tally: _Tally) -> Iterator[Part]:
    networks = list(model.net.networks) if isinstance(model.net, SeparateNetworks) else [model.net]
    # Of networks that domains have to themselves, one ran; it comes first.
    networks.sort(key=lambda network: tally.one.macs[network], reverse=True)
    for name in PLACES:
        chains = [getattr(network, name) for network in networks]
        parts = tuple(
            _part(stage.name, [chain[place] for chain in chains], owners, tally, stage)
            for place, stage in enumerate(getattr(plan, name))
        )
        if parts:
            cost = sum((part.cost for part in parts), Cost())
            yield Part(name=name.replace("_", " "), cost=cost, parts=parts)


def _part(
    name: str, copies: Sequence[nn.Module], owners: Owners, tally: _Tally, stage: Stage | None = None
) -> Part:
    """Describe a module and what ran within it; `copies` are the same of every domain, where each has its own."""
    module = copies[0]
    row, once = tally.of(module)
    inputs, outputs = tally.one.widths.get(module, (None, None))
    inner = {path: _at(copies, path) for path in _called(module, tally)}
    return Part(
        name=name,
        kind=type(stage or module).__name__.removesuffix("Module"),
        num_inputs=inputs,
        num_outputs=outputs,
        cost=replace(_parameters(copies, owners), row=row, once=once),
        stage=stage,
        parts=tuple(_part(path, found, owners, tally) for path, found in inner.items()),
    )


def _called(module: nn.Module, tally: _Tally) -> Iterator[str]:
    """Yield the paths of the nearest modules within that ran and hold parameters."""
    for name, child in module.named_children():
        if child in tally.one.widths:
            if any(True for _ in child.parameters()):
                yield name
        else:
            yield from (f"{name}.{path}" for path in _called(child, tally))


def _at(copies: Sequence[nn.Module], path: str) -> list[nn.Module]:
    return [copy.get_submodule(path) for copy in copies]


def _parameters(modules: Iterable[nn.Module], owners: Owners) -> Cost:
    counts: Counter[Owner] = Counter()
    for module in modules:
        for parameter in module.parameters():
            counts[owners[parameter]] += parameter.numel()
    return Cost(embedding=counts["embedding"], shared=counts["dense"], per_domain=counts["per_domain"])
