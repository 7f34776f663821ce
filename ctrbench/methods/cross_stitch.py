"""Cross-Stitch: a network for each domain, and after each layer a learned mixture of all of theirs.

Paper: Misra et al., Cross-stitch Networks for Multi-task Learning, CVPR 2016
Year: 2016
Conditions on: the indicator p
Grows with domains: a tower and a head a domain, and M mixing weights of each layer

METHODS 6.2, with domains for tasks. After hidden layer l of M networks, one number for each pair of them:

    h~_p = Σ_q A_pq h_q        A starts at 0.9 on the diagonal and 0.1 / (M - 1) elsewhere

A row runs through all M networks, at M times the cost of one, and its logit is the output of its own
domain's; after the last layer its own row of A is all it needs. More domains than `max_domains` are refused.

Readings: the networks start apart, as separately trained ones would be; an unseen domain takes the output of
the largest one's (0.4), and training rows have none, since domain features keep every value; with a single
domain A starts at 1. Row p of the last A serves domain p alone, so that A is a table of the domains'. Through
the networks every row runs, so absent domains' get gradients too (0.5 no. 3 does not hold for them); each is
a domain's all the same, and so are a row of A and parameter counts. What of a backbone is no dense stage
stays shared. Departures: none. Left out: a learning rate of A's own, ten times the common
one, and mixtures of single neurons, which are a different model.
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
    dense_part,
    mixed,
    refuse_many_domains,
)

OWN_SHARE = 0.9
"""Start of the diagonal of A."""


class CrossStitch(Method):
    """Networks of the domains, stitched after every hidden layer."""

    indexed_by = "indicator"

    max_domains: int = Field(default=32, ge=1)
    """Most domains that may have a network each, since every row runs through all of them."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with stitched towers, and heads of the domains' own."""
        before, dense = dense_part(plan.tower)
        stitched = Stitched(name="cross_stitch", tower=dense, max_domains=self.max_domains)
        return replace(plan, tower=(*before, stitched)).map_dense(DomainDense.like)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower does not end in dense stages."""
        has_tower = dense_part(plan.tower)[1]
        return None if has_tower else "the hidden layers of a tower are stitched, and this plan has none"


@dataclass(frozen=True, kw_only=True)
class Stitched(Stage):
    """The last hidden layer of a row's own network, among M that mix after every layer."""

    tower: tuple[Dense, ...]
    max_domains: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; refuse more domains than there may be networks."""
        refuse_many_domains(build.schema, self.max_domains)
        return StitchedModule(self, num_inputs, build)


class StitchedModule(StageModule):
    """Computes `Stitched`.

    Row p of the last A serves the rows of domain p alone, so only they move it; through all else every row runs.
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
            x = layer(x)
            x = (stitch_KK @ x.flatten(1)).view(x.shape)
        routing = context.known_routing
        own_BK = routing.spread(context.read(self.last, routing))
        return mixed(own_BK, last(x))


def start_stitch(num_networks: int) -> torch.Tensor:
    """Return A at the start; its rows sum to one."""
    if num_networks == 1:
        return torch.ones(1, 1)
    stitch_KK = torch.full((num_networks, num_networks), (1.0 - OWN_SHARE) / (num_networks - 1))
    return stitch_KK.fill_diagonal_(OWN_SHARE)
