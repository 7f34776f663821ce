"""Cross-Stitch: one network per domain, and a learned mixture of all networks after each layer.

Paper: Misra et al., Cross-stitch Networks for Multi-task Learning, CVPR 2016
Year: 2016
Uses: the indicator p
Parameters per domain: one tower, one head, and M mixing weights per layer

After hidden layer l of M networks, one number per pair of domains mixes their outputs (spec: cross-stitch-6.6):

    h~_p = Σ_q A_pq h_q        A starts at 0.9 on the diagonal and 0.1 / (M - 1) elsewhere

Domains are the tasks. Every row runs through all M networks, at M times the cost of one, and its logit is the output of
its own domain's network; after the last layer only its own row of A is needed.

Plan: one stage replaces the dense stages of the tower; the head becomes one per domain.

Choices: networks start at different weights, as separately trained ones would. A row of an unseen domain takes the
output of the largest domain's network (spec: conventions-0.4); training rows are never of an unseen domain. With one
domain A starts at 1. Row p of the last A serves domain p only, so that A is a per-domain table. Stages of a backbone
that are not dense stay shared.

Not implemented: a learning rate of A ten times the common one, and mixtures of single neurons, which are another model.

Limits: more domains than `max_domains` are refused. Since every row runs through all networks, networks of absent
domains get gradients too (an exemption of rule 3 in spec: conventions-0.5); they count as parameters per domain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from ctrbench.extend import (
    Build,
    Context,
    Dense,
    DomainDense,
    Field,
    Method,
    Plan,
    RowTable,
    Stage,
    StageModule,
    TowerBank,
    refuse_many_domains,
    split_tower,
    weighted_sum,
)

OWN_SHARE = 0.9
"""Initial value of the diagonal of A."""


class CrossStitch(Method):
    """One network per domain, mixed after every hidden layer."""

    indexed_by = "indicator"

    max_domains: int = Field(default=32, ge=1, le=65_536)
    """Largest number of domains; every row runs through the networks of all."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with stitched towers and one head per domain."""
        before, dense = split_tower(plan.tower)
        stitched = Stitched(name="cross_stitch", tower=dense, max_domains=self.max_domains)
        return replace(plan, tower=(*before, stitched)).map_dense(DomainDense.like)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower does not end in dense stages."""
        has_tower = split_tower(plan.tower)[1]
        return None if has_tower else "the hidden layers of a tower are stitched, and this plan has none"


@dataclass(frozen=True, kw_only=True)
class Stitched(Stage):
    """The last hidden layer of a row's own network, one of M that mix after every layer."""

    tower: tuple[Dense, ...]
    max_domains: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; raise `SettingError` for too many domains."""
        refuse_many_domains(build.schema, self.max_domains)
        return StitchedModule(self, num_inputs, build)


class StitchedModule(StageModule):
    """Computes `Stitched`.

    Row p of the last A serves the rows of domain p only, so only they train it; every row runs through all other parts.
    """

    of_domains = True

    def __init__(self, stage: Stitched, num_inputs: int, build: Build) -> None:
        super().__init__()
        num_networks = build.schema.num_indicators
        self.networks = TowerBank(stage.tower, num_networks, num_inputs, build)
        self.num_outputs = self.networks.num_outputs
        start_KK = start_stitch(num_networks)
        self.stitches = nn.ParameterList(nn.Parameter(start_KK.clone()) for _ in stage.tower[1:])
        self.last = RowTable(torch.cat([start_KK.new_zeros(1, num_networks), start_KK]), "domain")

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        *earlier, last = self.networks
        x = x_BN
        for layer, stitch_KK in zip(earlier, self.stitches, strict=True):
            x = layer(x, context)
            x = (stitch_KK @ x.flatten(1)).view(x.shape)
        routing = context.seen_routing
        own_BK = routing.broadcast(context.read(self.last, routing))
        return weighted_sum(own_BK, last(x, context))


def start_stitch(num_networks: int) -> torch.Tensor:
    """Return the initial A, (M, M); its rows sum to one."""
    if num_networks == 1:
        return torch.ones(1, 1)
    stitch_KK = torch.full((num_networks, num_networks), (1.0 - OWN_SHARE) / (num_networks - 1))
    return stitch_KK.fill_diagonal_(OWN_SHARE)
