"""From a plan to a model: the one builder, and the one model class that there is.

`CTRModel` = embeddings + `Network`, the plan's stages in order. What several stages share about a batch (domain ids,
e_d, the grouping of rows) and what they report (penalties, figures for the log) travels in a `Context` that lives
for one forward pass, so no module keeps anything of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.exchange import Team
from ctrbench.nn.plan import Build, Plan, Schema, Stage, StageModule
from ctrbench.nn.pooling import Behaviours, RowLoss
from ctrbench.nn.routing import Routing
from ctrbench.nn.separate import SeparateEmbedding, SeparateNetworks, check_separable, moved
from ctrbench.nn.tables import FieldEmbedding, Inputs, Reader, RowTable, read_rows

Precision = Literal["float32", "bf16"]
Owner = Literal["embedding", "dense", "per_domain"]
"""What a parameter is counted as."""


@dataclass(kw_only=True)
class Context:
    """What the stages of one forward pass share about the batch."""

    schema: Schema
    z_BN: torch.Tensor
    """The input vector as the embeddings made it."""
    domain_B: torch.Tensor
    """Composite domain ids, 0 = unseen; on the CPU, whatever the device is."""
    indicator_B: torch.Tensor
    """Ids of the indicator p that per-domain parameters are indexed by, 0 = unseen; on the CPU too."""
    reader: Reader | None = None
    first_order_BF: torch.Tensor | None = None
    """The weights of the ids themselves, where the plan asks for them; columns are fields as in z, numbers left out."""
    gated_BN: torch.Tensor | None = None
    """z as a stage left it that weighs the embeddings for all that reads them, if there is one."""
    behaviours: dict[str, Behaviours] = field(default_factory=dict)
    """The elements of each sequence that has a target, where the plan asks for them."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What stages of one method hand to one another, by names of their own."""
    row_losses: tuple[RowLoss, ...] = ()
    """What the embeddings add to the loss; the network makes penalties of it."""
    penalties: list[torch.Tensor] = field(default_factory=list)
    """Scalars that stages add to the loss, such as AdaSparse's sparsity term."""
    logs: dict[str, torch.Tensor] = field(default_factory=dict)
    """Scalars that stages report, such as the share of pruned neurons."""

    @property
    def team(self) -> Team | None:
        """The workers that have the other rows of the step's batch, if there are any.

        A stage that looks at other rows in training must reckon with them: a moment is one of the rows of all, and a
        penalty's gradient is that of this worker's rows, a mean over rows times their `share`.
        """
        return None if self.reader is None else self.reader.team

    @property
    def share(self) -> float:
        """Share of the step's rows that are here; below one where other workers have some."""
        return 1.0 if self.team is None else self.team.share

    @cached_property
    def domain_BE(self) -> torch.Tensor:
        """e_d: the embeddings of the domain-aware features, concatenated."""
        return torch.cat([self.z_BN[:, place] for place in self.schema.domain_slices], dim=1)

    @property
    def embeddings_BN(self) -> torch.Tensor:
        """z as interactions and towers are to read it: weighed, where a stage weighs it."""
        return self.z_BN if self.gated_BN is None else self.gated_BN

    @cached_property
    def domain_GE(self) -> torch.Tensor:
        """e_d of each domain present, in the order of `domain_routing`; where domain 0 is, of one of its rows."""
        return self.domain_BE.index_select(0, self.domain_routing.first_G)

    @cached_property
    def routing(self) -> Routing:
        """The rows grouped by the indicator p."""
        return Routing(self.indicator_B, self.z_BN.device)

    @cached_property
    def domain_routing(self) -> Routing:
        """The rows grouped by the composite domain."""
        is_same = self.domain_B.data_ptr() == self.indicator_B.data_ptr()
        return self.routing if is_same else Routing(self.domain_B, self.z_BN.device)

    @cached_property
    def known_routing(self) -> Routing:
        """The rows grouped by the indicator, those of an unseen one with the largest (METHODS 0.4)."""
        if not self.routing.has(0):
            return self.routing
        return Routing(self.schema.known(self.indicator_B), self.z_BN.device)

    def read(self, table: RowTable, routing: Routing | None = None) -> torch.Tensor:
        """Return a per-domain table's rows of the groups present, in the order of `present_G`; `routing` by default."""
        return read_rows(self.reader, table, (routing or self.routing).present_G)

    def part(self, rows: slice | torch.Tensor) -> Context:
        """Return the context of some rows of the batch, with penalties and logs of its own.

        Row numbers are on the CPU, and none stands there twice.
        """
        there = rows if isinstance(rows, slice) else moved(rows, self.z_BN.device)
        return replace(
            self,
            z_BN=self.z_BN[there],
            domain_B=self.domain_B[rows],
            indicator_B=self.indicator_B[rows],
            first_order_BF=None if self.first_order_BF is None else self.first_order_BF[there],
            gated_BN=None,
            row_losses=tuple(loss.part(rows, there) for loss in self.row_losses),
            behaviours={name: one.part(rows, there) for name, one in self.behaviours.items()},
            shared={},
            penalties=[],
            logs={},
        )

    def detached(self) -> Context:
        """Return the same context cut off from the gradient of the embeddings."""
        weights_BF = None if self.first_order_BF is None else self.first_order_BF.detach()
        return replace(
            self,
            z_BN=self.z_BN.detach(),
            first_order_BF=weights_BF,
            gated_BN=None,
            row_losses=(),
            behaviours={name: one.detached() for name, one in self.behaviours.items()},
            shared={},
            penalties=[],
            logs={},
        )


class Chain(nn.ModuleList):
    """Stage modules one after the other."""

    def __init__(self, stages: tuple[Stage, ...], num_inputs: int, build: Build) -> None:
        super().__init__()
        for stage in stages:
            module = stage.build(num_inputs, build)
            num_inputs = module.num_outputs
            self.append(module)
        self.num_outputs = num_inputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Run the rows through all stages."""
        for module in self:
            x_BN = module(x_BN, context)
        return x_BN


class Network(nn.Module):
    """All of a plan behind the embeddings; from a `Context` to logits of shape (B,)."""

    precision: Precision = "float32"
    """`bf16`: products of interactions and tower in bfloat16; weights, head and logit in float32."""

    def __init__(self, plan: Plan, build: Build) -> None:
        super().__init__()
        width = build.schema.num_inputs
        self.is_parallel = plan.join == "parallel"
        self.at_input = Chain(plan.at_input, width, build)
        self.interactions = nn.ModuleList(
            stage.build(self.at_input.num_outputs, build) for stage in plan.interactions
        )
        crossed = sum(_width(module) for module in self.interactions)
        is_fed = self.is_parallel or not crossed
        self.tower = Chain(plan.tower, self.at_input.num_outputs if is_fed else crossed, build)
        deep = self.tower.num_outputs
        self.head = Chain(plan.head, deep + crossed if self.is_parallel else deep, build)
        self.logits = nn.ModuleList(stage.build(width, build) for stage in plan.logits)
        if any(_width(module) != 1 for module in (self.head, *self.logits)):
            raise ValueError("the head and every further logit of a plan end in width 1")

    def start_at(self, rate: float) -> None:
        """Let the output's bias start where a zero input gives that probability."""
        # Saves the first few thousand steps where positives are rare (METHODS 0.3).
        bias = getattr(self.head[-1], "bias", None) if len(self.head) else None
        if isinstance(bias, nn.Parameter):
            nn.init.constant_(bias, math.log(rate / (1.0 - rate)))

    def forward(self, context: Context) -> torch.Tensor:
        """Return logits of shape (B,), float32."""
        _add_row_losses(context)
        if self.precision == "float32":
            joined = self._joined(context)
        else:
            with torch.autocast(context.z_BN.device.type, torch.bfloat16):
                joined = self._joined(context).float()
        # In float32: a logit of bf16 has eight bits, and scores would tie by the hundred.
        logit_B1: torch.Tensor = self.head(joined, context)
        for module in self.logits:
            logit_B1 = logit_B1 + module(context.z_BN, context)
        return logit_B1[:, 0]

    def _joined(self, context: Context) -> torch.Tensor:
        x_BN = self.at_input(context.z_BN, context)
        crossed = [module(x_BN, context) for module in self.interactions]
        if self.is_parallel:
            return torch.cat([*crossed, self.tower(x_BN, context)], dim=1)
        joined: torch.Tensor = self.tower(torch.cat(crossed, dim=1) if crossed else x_BN, context)
        return joined


def _add_row_losses(context: Context) -> None:
    for loss in context.row_losses:
        mean = loss.mean()
        if mean is not None:
            context.penalties.append(loss.weight * mean)
            context.logs[loss.name] = mean.detach()


class CTRModel(nn.Module):
    """The model that a plan describes."""

    def __init__(self, plan: Plan, schema: Schema, *, seed: int, precision: Precision = "float32") -> None:
        super().__init__()
        if plan.hides_domain:
            schema = _without_domain(schema)
        _check_pooling(plan, schema)
        build = Build(schema=schema, seed=seed)
        self.schema, self.attends = schema, plan.attends
        self.embedding: FieldEmbedding
        self.net: Network | SeparateNetworks
        if plan.separate is None:
            self.embedding = FieldEmbedding(schema, build, first_order=plan.first_order, pooling=plan.pooling)
            networks = [Network(plan, build)]
            self.net = networks[0]
        else:
            check_separable(schema, plan.separate)
            self.embedding = SeparateEmbedding(
                schema, build, first_order=plan.first_order, pooling=plan.pooling
            )
            networks = [Network(plan, build) for _ in range(schema.num_indicators)]
            self.net = SeparateNetworks(networks)
        for network in networks:
            network.precision = precision
            network.start_at(schema.base_rate)

    def context(self, inputs: Inputs, reader: Reader | None = None) -> Context:
        """Embed a batch; the network can then be run on it, or on parts of it."""
        losses: list[RowLoss] = []
        behaviours: dict[str, Behaviours] = {}
        z_BN, first_order_BF = self.embedding(inputs, reader, losses, behaviours if self.attends else None)
        return Context(
            schema=self.schema,
            z_BN=z_BN,
            domain_B=inputs.domain_B,
            indicator_B=inputs.indicator_B,
            reader=reader,
            first_order_BF=first_order_BF,
            row_losses=tuple(losses),
            behaviours=behaviours,
        )

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Return logits of shape (B,)."""
        logits: torch.Tensor = self.net(self.context(inputs))
        return logits

    def advance(self, progress: float) -> None:
        """Tell every stage that an optimiser step was made."""
        for module in self._annealed:
            module.advance(progress)

    @cached_property
    def _annealed(self) -> tuple[StageModule, ...]:
        stages = (module for module in self.modules() if isinstance(module, StageModule))
        return tuple(stage for stage in stages if type(stage).advance is not StageModule.advance)

    def owners(self) -> dict[nn.Parameter, Owner]:
        """Say of each parameter whether it is the embeddings', a domain's or all domains' (dense).

        Tables tell it by their rule. Any other module whose parameters, those of modules within included, belong to
        single domains has an attribute `of_domains = True`.
        """
        owners: dict[nn.Parameter, Owner] = dict.fromkeys(self.parameters(), "dense")
        for module in self.modules():
            if getattr(module, "of_domains", False):
                owners |= dict.fromkeys(module.parameters(), "per_domain")
        for module in self.modules():
            if isinstance(module, RowTable):
                owners[module.weight] = "embedding" if module.rule == "embedding" else "per_domain"
        return owners

    def num_parameters(self) -> dict[str, int]:
        """Count trainable parameters by owner: embedding, dense (shared) and per_domain."""
        counts: dict[str, int] = {"embedding": 0, "dense": 0, "per_domain": 0}
        for parameter, owner in self.owners().items():
            counts[owner] += parameter.numel()
        return counts


def _without_domain(schema: Schema) -> Schema:
    schema = replace(schema, hidden=schema.domain_features)
    if not schema.num_inputs:
        raise SettingError(
            "a model that does not see the domain features needs other fields",
            value=f"all fields are domain features: {', '.join(schema.domain_features)}",
            remedy="choose a domain set that leaves a field",
        )
    return schema


def _check_pooling(plan: Plan, schema: Schema) -> None:
    asked = ["attention=true"] if plan.attends else []
    asked += [f"pooling={plan.pooling.kind}"] if plan.pooling.kind != "mean" else []
    if asked and not schema.targets:
        raise SettingError(
            f"{asked[0]} compares sequences with a field that is seen, their target",
            value="no sequence has one",
            remedy=f"name the field in the card (target), or leave {asked[0].partition('=')[0]} out",
        )


def _width(module: nn.Module) -> int:
    width = module.num_outputs
    assert isinstance(width, int)
    return width
