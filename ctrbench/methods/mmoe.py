"""MMoE: towers that all domains share, mixed for each domain by a gate of its own.

Paper: Ma et al., Multi-gate Mixture-of-Experts, KDD 2018
Year: 2018
Conditions on: the indicator p; what the tower is given
Grows with domains: a gate and a head a domain; experts as far as `experts` says

METHODS 6.2, with domains for tasks. With z what the tower is given and f_1..f_K towers of the backbone's
widths:

    g = softmax(z W_p)     u = Σ_k g_k f_k(z)     s = head_p(u), in a parallel plan head_p([interactions ; u])

Every row runs through all K towers, at K times the cost of one. So K is the number of domains up to 20, as
in the STAR study, and 8 beyond; the record of a run notes K.

Readings: gates have no bias and start at zero, all experts alike, since the experts start apart; heads are
the plan's own dense stages, one for each domain; an unseen domain takes gate and head of the largest (0.4),
and training rows have none, since domain features keep every value. Where there is but one domain there are
two experts: a gate over one can learn nothing. Departures: none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ctrbench.extend import (
    Build,
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
    dense_part,
    domain_table,
    mixed,
)

MOST_EXPERTS, FEWER_EXPERTS = 20, 8
"""Experts a domain up to this many domains; experts of all domains together beyond."""


class Mmoe(Method):
    """Experts that domains share, a gate and a head for each domain."""

    indexed_by = "indicator"

    experts: int | None = Field(default=None, ge=2)
    """Towers that every row runs through; None: as many as domains up to 20 of them, else 8."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a mixture of towers, and heads of the domains' own."""
        before, dense = dense_part(plan.tower)
        mixture = Mixture(name="mmoe", tower=dense, experts=self.experts)
        return replace(plan, tower=(*before, mixture)).map_dense(DomainDense.like)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower does not end in dense stages."""
        has_tower = dense_part(plan.tower)[1]
        return None if has_tower else "experts are towers of dense layers, and this plan has none"

    def learner(self) -> Learner:
        """Return ordinary training that notes K, which the settings alone do not tell."""
        return MmoeLearner()


class MmoeLearner(Learner):
    """Trains as usual; the record notes how many experts there were."""

    selects = True

    def select(self, model: CTRModel, train: SplitData, dev: SplitData) -> dict[str, float | int | str]:
        """Choose nothing."""
        (mixture,) = (module for module in model.modules() if isinstance(module, MixtureModule))
        return {"experts": mixture.num_experts}


@dataclass(frozen=True, kw_only=True)
class Mixture(Stage):
    """Σ_k softmax(x W_p)_k f_k(x), with towers f_k that start apart."""

    tower: tuple[Dense, ...]
    experts: int | None

    def num_experts(self, schema: Schema) -> int:
        """Return K."""
        num_domains = schema.num_indicators
        return self.experts or (max(2, num_domains) if num_domains <= MOST_EXPERTS else FEWER_EXPERTS)

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; gates at zero."""
        return MixtureModule(self, num_inputs, build)


class MixtureModule(StageModule):
    """Computes `Mixture`; a row meets all experts and its own domain's gate."""

    def __init__(self, stage: Mixture, num_inputs: int, build: Build) -> None:
        super().__init__()
        num_experts = self.num_experts = stage.num_experts(build.schema)
        self.experts = TowerBank(stage.tower, num_experts, num_inputs, build)
        self.num_outputs = self.experts.num_outputs
        self.gate = domain_table(build.schema.num_indicators, torch.zeros(num_inputs, num_experts))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        routing = context.known_routing
        gate_BK = routing.linear(x_BN, context.read(self.gate, routing)).softmax(1)
        return mixed(gate_BK, self.experts(x_BN))
