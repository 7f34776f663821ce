"""The cost of a method on a backbone: both plans side by side, and totals per pair before a grid of runs.

Sequences that have a target are counted at their mean length in the data, all other lists with one element.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from ctrbench.cost.model import NO_LENGTHS, SEED, Lengths, build_unfilled
from ctrbench.cost.parameters import Cost
from ctrbench.cost.tree import PlanCost, plan_cost, total_cost
from ctrbench.errors import ContractError, SettingError
from ctrbench.failures import describe_failure, is_failure, summary, user_error
from ctrbench.names import Split
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import Selected, select
from ctrbench.runs.grid import Run, make_grid
from ctrbench.runs.schema import field_shapes, make_schema, synthetic_schema
from ctrbench.synthetic.click_log import field_sizes, synthetic_ids
from ctrbench.train.distributed import unsupported

if TYPE_CHECKING:
    from ctrbench.data.prepared import Prepared
    from ctrbench.plugins.base import Method
    from ctrbench.train.config import TrainConfig

SYNTHETIC_ROWS = 20_000
"""Rows of the synthetic data of `ctrbench bench` from which the sizes of synthetic domains are counted."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The plan of a backbone before and after a method's rewrite, with costs."""

    method: str
    backbone: str
    data: str
    """Description of the data for which the plans are built."""
    indicator: str
    """Feature that indexes the method's per-domain parameters, with its number of values; empty without any."""
    before: PlanCost
    after: PlanCost


def explain(
    method: str,
    backbone: str,
    *,
    prepared: Prepared | None = None,
    domain_set: str = "default",
    indicator: str | None = None,
    config: TrainConfig,
) -> Explanation:
    """Compare the plan of a method with that of its backbone, for prepared data or (default) for synthetic data.

    Raises `SettingError` for an unknown name or setting, and if the method does not support the backbone.
    """
    selected, base = select("methods", method), select("backbones", backbone)
    rewriter = selected.value
    plan = base.value.full_plan()
    reason = rewriter.unsupported_reason(plan)
    if reason is not None:
        raise SettingError(f"{selected.label} does not support {base.label}", value=reason)
    if prepared is None:
        data = _synthetic_data(config)
    else:
        (run, *_) = make_grid(
            prepared, methods=(method,), backbones=(backbone,), seeds=(SEED,),
            domain_set=domain_set, indicator=indicator, config=config,
        )  # fmt: skip
        data = _prepared_data(prepared, run)
    with _named_plugins(selected, base):
        before, after = (
            plan_cost(each, data.schema, batch_rows=config.batch_size, lengths=data.lengths)
            for each in (plan, rewriter.apply(plan))
        )
    return Explanation(
        method=selected.label,
        backbone=base.label,
        data=data.description,
        indicator=_index_label(rewriter, after.cost, data.indicator, data.schema),
        before=before,
        after=after,
    )


@contextmanager
def _named_plugins(*selected: Selected[Any]) -> Iterator[None]:
    """Name plug-ins from outside in an error that their plans cause in a module of ctrbench or of torch."""
    try:
        yield
    except Exception as error:
        files = [str(choice.plugin.file) for choice in selected if not choice.plugin.is_builtin]
        if not files or user_error(error) is not None:
            raise
        raise ContractError(
            "a model must be built from the plan of a plug-in without an exception",
            value=f"{', '.join(files)}: {summary(error)}",
            remedy="ctrbench check names the rule that the plug-in breaks; --debug shows the traceback",
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Data:
    """Properties of the data for which plans are built."""

    schema: Schema
    description: str
    indicator: str
    lengths: Lengths


def _synthetic_data(config: TrainConfig) -> _Data:
    sizes = field_sizes()
    domain_B = synthetic_ids(SYNTHETIC_ROWS, sizes[:1], seed=0)[:, 0]
    schema = synthetic_schema(domain_B, sizes, embedding_size=config.embedding_size)
    description = f"synthetic data, since no dataset is prepared: {_size_text(schema)}"
    return _Data(schema=schema, description=description, indicator="the synthetic domain", lengths=NO_LENGTHS)


def _prepared_data(prepared: Prepared, run: Run) -> _Data:
    schema = make_schema(prepared, run.key)
    lengths, note = sequence_lengths(prepared)
    features = " × ".join(run.key.domain_features)
    return _Data(
        schema=schema,
        description=f"{prepared.manifest.name}, domains by {features}: {_size_text(schema)}{note}",
        indicator=run.key.indicator,
        lengths=lengths,
    )


def _size_text(schema: Schema) -> str:
    return f"{len(schema.slices)} fields, {schema.num_domains:,} domains"


def _index_label(method: Method, cost: Cost, indicator: str, schema: Schema) -> str:
    """Name the value by which a method distinguishes domains, and how many there are; empty if it does not."""
    if method.indexed_by == "domain":
        return f"domains ({schema.num_domains:,})"
    # Every method may add per-domain parameters by its settings `norm` and `aux`.
    is_indexed = method.indexed_by == "indicator" or cost.per_domain
    return f"{indicator} ({schema.num_indicators:,})" if is_indexed else ""


@dataclass(frozen=True, kw_only=True)
class PairCost:
    """The cost of a method on a backbone, or the reason why it is unknown."""

    method: str
    backbone: str
    cost: Cost | None = None
    plain: Cost | None = None
    """Cost of the backbone alone."""
    indicator: str = ""
    """Feature that indexes the method's per-domain parameters, with its number of values; empty without any."""
    reason: str = ""
    group: str = ""
    """`Run.group` of the runs."""
    refusal: SettingError | None = None
    """Error with which the method refuses these settings or these data."""

    @property
    def times_plain(self) -> float | None:
        """Multiply-adds per row in relation to the backbone's."""
        return self.cost.row / self.plain.row if self.cost and self.plain and self.plain.row else None


def pair_costs(prepared: Prepared, runs: Iterable[Run], *, workers: int = 1) -> Iterator[PairCost]:
    """Yield the cost of each method × backbone of the runs; an error of a plug-in becomes the pair's reason.

    A method that cannot be trained by that many workers per run is a refusal.
    """
    first = {run.group: run for run in runs}
    plain: dict[str, Cost] = {}
    lengths, _ = sequence_lengths(prepared)
    for group, run in first.items():
        schema, (method, backbone) = make_schema(prepared, run.key), run.chosen()
        pair = PairCost(
            method=run.labels[0], backbone=run.labels[1], reason=run.unsupported or "", group=group
        )
        if method.as_estimator() is not None:
            pair = replace(
                pair,
                reason=pair.reason or "no network; its size is known once it is fitted",
                refusal=_workers_refusal(pair, "an estimator is fitted by one process")
                if workers > 1
                else None,
            )
        if pair.reason:
            yield pair
            continue
        try:
            if run.key.backbone.digest not in plain:
                plain[run.key.backbone.digest] = total_cost(backbone.full_plan(), schema, lengths=lengths)
            plan = method.apply(backbone.full_plan())
            cost = total_cost(plan, schema, lengths=lengths)
            refused = unsupported(build_unfilled(plan, schema), method.learner()) if workers > 1 else None
        except SettingError as refusal:
            yield replace(pair, reason=str(refusal), refusal=refusal)
        except BaseException as problem:  # the run will fail with it, and its record will hold it
            if not is_failure(problem):
                raise
            yield replace(pair, reason=describe_failure(problem))
        else:
            indicator = _index_label(method, cost, run.key.indicator, schema)
            worker_refusal = None if refused is None else _workers_refusal(pair, refused)
            plain_cost = plain[run.key.backbone.digest]
            yield replace(pair, cost=cost, plain=plain_cost, indicator=indicator, refusal=worker_refusal)


def _workers_refusal(pair: PairCost, reason: str) -> SettingError:
    return SettingError(
        "this method cannot be trained by several workers",
        value=f"{pair.method} × {pair.backbone} ({reason})",
        remedy="leave out --workers, or the method",
    )


def sequence_lengths(prepared: Prepared) -> tuple[dict[str, int], str]:
    """Return the length of each sequence that has a target, and a text that says where it was taken from.

    The length is the mean of the last training shard or, for rows that are generated on reading, the card's maximum.
    """
    names = [field.name for field in field_shapes(prepared) if field.target is not None]
    if not names:
        return {}, ""
    shards = prepared.manifest.splits[Split.TRAIN].shards
    if shards[-1].sha256:
        table = prepared.read_shard(Split.TRAIN, len(shards) - 1, names, verify=False)
        means = {name: pc.list_flatten(table[name]).length() / table.num_rows for name in names}
        lengths, source = (
            {name: max(1, round(mean)) for name, mean in means.items()},
            "mean of the last shard",
        )
    else:
        longest = {field.name: field.max_length or 1 for field in prepared.manifest.card.fields}
        lengths, source = {name: longest[name] for name in names}, "max_length of the card"
    lengths_text = ", ".join(f"{length} elements in {name}" for name, length in lengths.items())
    return lengths, f"; {lengths_text} ({source})"
