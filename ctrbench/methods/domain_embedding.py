"""Domain embedding: one model for all domains whose tower also reads an embedding of the composite domain.

Paper: none, the simplest method with parameters per domain
Year: none
Uses: the composite domain d
Parameters per domain: one embedding row per composite domain

    tower input = [x ; emb(d)]        x is the tower input of the backbone

The embedding has the size of a field's embedding and the same initial distribution (spec: domain-embedding-13.3).

Plan: one stage before the tower; interactions and further logits read z unchanged.

Choices: emb(0), the row of unseen domains, is zero and never trained (spec: conventions-0.4). Normalization before the
tower applies to x only.

Limits: the first layer is wider than the backbone's and draws other initial weights, so the model does not start as the
backbone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ctrbench.extend import Build, Context, Method, Plan, RowTable, Stage, StageModule


class DomainEmbedding(Method):
    """An embedding of the composite domain beside the tower's input."""

    indexed_by = "domain"

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the embedding before the tower."""
        return plan.before_tower(WithDomain(name="domain_embedding"))


@dataclass(frozen=True, kw_only=True)
class WithDomain(Stage):
    """[x ; emb(d)]."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; rows start like embeddings of fields."""
        return WithDomainModule(self, num_inputs, build)


class WithDomainModule(StageModule):
    """Computes `WithDomain`."""

    def __init__(self, stage: WithDomain, num_inputs: int, build: Build) -> None:
        super().__init__()
        schema = build.schema
        self.num_outputs = num_inputs + schema.embedding_size
        rows = torch.zeros(schema.num_domains + 1, schema.embedding_size)
        rows[1:].normal_(std=build.embedding_std, generator=build.generator(f"{stage.name}.rows"))
        self.domain = RowTable(rows, "domain")

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N + E)."""
        routing = context.domain_routing
        # emb(0) stays zero and gets no gradient, also where the batch holds rows of unseen domains.
        own_GE = context.read(self.domain, routing) * (routing.present_G > 0)[:, None]
        return torch.cat([x_BN, routing.broadcast(own_GE).expand(len(x_BN), -1)], dim=1)
