"""Domain embedding: one model for all domains that is also given a row of numbers for each of them.

Paper: none, the reference for all that treats domains apart
Year: none

Conditions on: the composite domain d
Grows with domains: a row of the embedding size for each composite domain

    tower input = [x ; emb(d)],   x what the backbone gives the tower

Interactions and further logits see z as it is. METHODS 0.4: emb(0), the unseen domain's, is zero and never moves.
Readings: emb(d) is as wide as an embedding and starts as one does; it is read and moved like other parameters of
domains, by its own rows' steps alone; normalisation before the tower takes x and leaves emb(d) as it is. The first
layer is wider than the backbone's and drawn anew, so the start is not the backbone's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ctrbench.extend import EMBEDDING_STD, Build, Context, Method, Plan, RowTable, Stage, StageModule


class DomainEmbedding(Method):
    """An embedding of the composite domain beside what the tower is given."""

    indexed_by = "domain"

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the embedding before the tower."""
        return plan.before_tower(WithDomain(name="domain_embedding"))


@dataclass(frozen=True, kw_only=True)
class WithDomain(Stage):
    """[x ; emb(d)]."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; rows start as those of fields do."""
        return WithDomainModule(self, num_inputs, build)


class WithDomainModule(StageModule):
    """Computes `WithDomain`."""

    def __init__(self, stage: WithDomain, num_inputs: int, build: Build) -> None:
        super().__init__()
        schema = build.schema
        self.num_outputs = num_inputs + schema.embedding_size
        rows = torch.zeros(schema.num_domains + 1, schema.embedding_size)
        rows[1:].normal_(std=EMBEDDING_STD, generator=build.generator(f"{stage.name}.rows"))
        self.domain = RowTable(rows, "domain")

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N + E)."""
        routing = context.domain_routing
        # Whatever rows a batch holds, emb(0) is zero and no gradient reaches it.
        own_GE = context.read(self.domain, routing) * (routing.present_G > 0)[:, None]
        return torch.cat([x_BN, routing.spread(own_GE).expand(len(x_BN), -1)], dim=1)
