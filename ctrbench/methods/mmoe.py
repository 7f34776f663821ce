"""MMoE: experts that all domains share, mixed by a gate per domain.

Paper: Ma et al., Multi-gate Mixture-of-Experts, KDD 2018
Year: 2018
Uses: the indicator p and the tower's input
Parameters per domain: one gate and one head; with the default `experts` also one expert, for up to 20 domains

With z the tower's input and f_1 … f_K towers of the backbone's widths (spec: mmoe-6.5):

    g = softmax(z W_p)     u = Σ_k g_k f_k(z)     s = head_p(u), in a parallel plan head_p([interactions ; u])

Domains are the tasks. Every row runs through all K towers, at K times the cost of one. K is the number of domains up to
20, as in the STAR study, and 8 beyond; the record of a run notes K.

Plan: one stage replaces the dense stages of the tower; the head becomes one per domain.

Choices: gates have no bias and start at zero, all experts alike, since the experts start at different weights. Heads
are the dense stages of the plan, one per domain. A row of an unseen domain uses gate and head of the largest domain
(spec: conventions-0.4); training rows are never of an unseen domain. With one domain there are two experts, since a
gate over one expert learns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch

from ctrbench.extend import (
    Build,
    Choices,
    Context,
    CTRModel,
    Dense,
    DomainDense,
    Field,
    Learner,
    Method,
    Plan,
    Schema,
    SplitData,
    Stage,
    StageModule,
    TowerBank,
    domain_table,
    split_tower,
    weighted_sum,
)

MOST_EXPERTS, FEWER_EXPERTS = 20, 8
"""One expert per domain up to `MOST_EXPERTS` domains; `FEWER_EXPERTS` in total beyond."""


class Mmoe(Method):
    """Experts that domains share, and a gate and a head per domain."""

    indexed_by = "indicator"

    experts: Annotated[int | None, Choices(None, 4, 8, 16)] = Field(default=None, ge=2, le=256)
    """Number of experts, which every row runs through; none: one per domain up to 20 domains, 8 beyond."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a mixture of towers and one head per domain."""
        before, dense = split_tower(plan.tower)
        mixture = Mixture(name="mmoe", tower=dense, experts=self.experts)
        return replace(plan, tower=(*before, mixture)).map_dense(DomainDense.like)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower does not end in dense stages."""
        has_tower = split_tower(plan.tower)[1]
        return None if has_tower else "experts are towers of dense layers, and this plan has none"

    def learner(self) -> Learner:
        """Return ordinary training that notes K, which the settings alone do not determine."""
        return MmoeLearner()


class MmoeLearner(Learner):
    """Ordinary training; the record notes the number of experts."""

    selects = True

    def select(self, model: CTRModel, train: SplitData, dev: SplitData) -> dict[str, float | int | str]:
        """Return the number of experts, for the record; no choice depends on dev."""
        (mixture,) = (module for module in model.modules() if isinstance(module, MixtureModule))
        return {"experts": mixture.num_experts}


@dataclass(frozen=True, kw_only=True)
class Mixture(Stage):
    """Experts mixed by the domain's gate: Σ_k softmax(x W_p)_k f_k(x); each tower f_k has its own initial weights."""

    tower: tuple[Dense, ...]
    experts: int | None

    def num_experts(self, schema: Schema) -> int:
        """Return K."""
        num_domains = schema.num_indicators
        return self.experts or (max(2, num_domains) if num_domains <= MOST_EXPERTS else FEWER_EXPERTS)

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; gates start at zero."""
        return MixtureModule(self, num_inputs, build)


class MixtureModule(StageModule):
    """Computes `Mixture`; a row runs through all experts and its own domain's gate."""

    def __init__(self, stage: Mixture, num_inputs: int, build: Build) -> None:
        super().__init__()
        num_experts = self.num_experts = stage.num_experts(build.schema)
        self.experts = TowerBank(stage.tower, num_experts, num_inputs, build)
        self.num_outputs = self.experts.num_outputs
        self.gate = domain_table(build.schema.num_indicators, torch.zeros(num_inputs, num_experts))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        routing = context.seen_routing
        gate_BK = routing.linear(x_BN, context.read(self.gate, routing)).softmax(1)
        return weighted_sum(gate_BK, self.experts(x_BN, context))
