"""HiNet: sub-experts of a shared view and of every domain's view, with attention of a domain to the other views.

Paper: Zhou et al., HiNet: Multi-Scenario & Multi-Task Learning with Hierarchical Information Extraction, ICDE 2023
Year: 2023
Uses: the indicator p and the tower's input
Parameters per domain: the sub-experts with their gate, a row emb(p), and one output of the attention

SEI(x) = Σ_k softmax(x W)_k f_k(x), sub-expert integration, has towers f_k of the backbone's widths. With x the tower's
input, one SEI is shared and one belongs to each of the M domains (spec: hinet-7.7):

    G = SEI_shared(x)     S_q = SEI_q(x)     A_p = Σ_{q≠p} softmax_{q≠p}(MLP(emb(p)))_q S_q
    C_p = [G ; S_p ; A_p]        s = head(tower(CGC(C_p))), CGC(C) = Σ_k softmax(C W)_k f_k(C)

The softmax leaves the own domain out, so the weights of the other domains sum to one. Every row runs through M + 1
SEIs, at (M + 1) `sub_experts` times the cost of one tower.

Plan: the tower becomes the inner part of one stage.

Choices: with one task, shared and specific experts of CGC are of one kind, so `experts` counts both; they are shared by
the domains, like tower and head. Gates have no bias and start at zero, all experts alike. A row of an unseen domain is
treated as one of the largest domain (spec: conventions-0.4). With two domains A_p is the other domain's S_q; with one
it is left out.

Deviations: sub-experts are as wide as the backbone's tower (spec: comparison-11.3); public code has 128-64. Public code
uses dropout 0.5; there is none here.

Limits: more domains than `max_domains` are refused. By the definition, SEIs of absent domains get gradients too (an
exemption of rule 3 in spec: conventions-0.5); rows of emb(p) do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import nn

from ctrbench.extend import (
    Build,
    Capabilities,
    Chain,
    Choices,
    Context,
    Dense,
    Field,
    Method,
    Plan,
    RowTable,
    Stage,
    StageModule,
    TowerBank,
    dense_stages,
    refuse_many_domains,
    select_own,
    weighted_sum,
    with_prefix,
)

Size = Annotated[int, Field(ge=1, le=65_536)]


class Hinet(Method):
    """Sub-expert integration per domain, attention between domains, and experts on both."""

    indexed_by = "indicator"

    sub_experts: Annotated[int, Choices(2, 3, 5)] = Field(default=5, ge=2, le=256)
    """Towers per SEI."""
    experts: Annotated[int, Choices(2, 4)] = Field(default=2, ge=2, le=256)
    """Experts of CGC."""
    expert: Annotated[tuple[Size, ...], Choices("32", "64", "128")] = Field(
        default=(64,), min_length=1, max_length=64
    )
    """Widths of the layers of CGC's experts."""
    tower: tuple[Size, ...] = Field(default=(64,), min_length=1, max_length=64)
    """Widths of the layers between CGC and the head."""
    embedding: int = Field(default=16, ge=1, le=65_536)
    """Width of emb(p)."""
    attention: int = Field(default=64, ge=1, le=65_536)
    """Width of the hidden layer of the attention's MLP."""
    max_domains: int = Field(default=32, ge=1, le=65_536)
    """Largest number of domains; every row runs through the sub-experts of all."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with both kinds of extraction instead of its tower."""
        return plan.wrap_tower(self._extraction_stage)

    def _extraction_stage(self, stages: tuple[Stage, ...]) -> Extraction:
        sub_expert = dense_stages(stages)
        expert, tower = (
            tuple(
                replace(sub_expert[0], name=f"hinet.{part}{i}", width=width) for i, width in enumerate(widths)
            )
            for part, widths in (("expert", self.expert), ("tower", self.tower))
        )
        return Extraction(name="hinet", settings=self, sub_expert=sub_expert, expert=expert, tower=tower)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower has other stages than dense ones."""
        if plan.has_dense_tower:
            return None
        return "sub-experts replace a tower of dense layers, and this plan has none"


@dataclass(frozen=True, kw_only=True)
class Extraction(Stage):
    """Sub-expert integration, CGC and tower."""

    settings: Hinet
    sub_expert: tuple[Dense, ...]
    expert: tuple[Dense, ...]
    tower: tuple[Dense, ...]

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; raise `SettingError` for too many domains."""
        refuse_many_domains(build.schema, self.settings.max_domains)
        return ExtractionModule(self, num_inputs, build)


class ExtractionModule(StageModule):
    """Computes `Extraction`; every row trains all parameters except emb(p)."""

    def __init__(self, stage: Extraction, num_inputs: int, build: Build) -> None:
        super().__init__()
        num_domains, settings = build.schema.num_indicators, stage.settings
        self.shared = Views(stage, "hinet.shared", 1, num_inputs, build)
        self.own = Views(stage, "hinet.own", num_domains, num_inputs, build)
        self.own.of_domains = True
        num_views = 3 if num_domains > 1 else 2
        num_joined = num_views * stage.sub_expert[-1].width
        self.experts = TowerBank(stage.expert, settings.experts, num_joined, build)
        self.gate = nn.Parameter(torch.zeros(num_joined, settings.experts))
        self.tower = Chain(stage.tower, self.experts.num_outputs, build)
        self.num_outputs = self.tower.num_outputs
        # With one other domain the softmax is one.
        self.attention = Attention(settings, num_domains, build) if num_domains > 2 else None

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        joined_BN = torch.cat(self._view_representations(x_BN, context), dim=1)
        weight_BK = (joined_BN @ self.gate).softmax(1)
        tower_BM: torch.Tensor = self.tower(
            weighted_sum(weight_BK, self.experts(joined_BN, context)), context
        )
        return tower_BM

    def _view_representations(self, x_BN: torch.Tensor, context: Context) -> list[torch.Tensor]:
        """Return G, S_p and, with more than one domain, A_p, each (B, M)."""
        (shared_BM,), own_PBM = self.shared(x_BN, context), self.own(x_BN, context)
        routing = context.seen_routing
        own_BM = select_own(own_PBM, routing)
        if len(own_PBM) == 1:
            return [shared_BM, own_BM]
        if self.attention is None:
            return [shared_BM, own_BM, own_PBM.sum(0) - own_BM]
        return [shared_BM, own_BM, weighted_sum(routing.broadcast(self.attention(context)), own_PBM)]


class Views(nn.Module, Capabilities):
    """Parallel SEIs, each with its own gate and sub-experts."""

    def __init__(self, stage: Extraction, name: str, num_views: int, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_views, num_all = num_views, num_views * stage.settings.sub_experts
        self.experts = TowerBank(with_prefix(stage.sub_expert, name), num_all, num_inputs, build)
        self.gate = nn.Parameter(torch.zeros(num_inputs, num_all))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (P, B, M)."""
        weight_BPK = (x_BN @ self.gate).view(len(x_BN), self.num_views, -1).softmax(2)
        experts_KBM: torch.Tensor = self.experts(x_BN, context)
        experts_PKBM = experts_KBM.view(self.num_views, -1, *experts_KBM.shape[1:])
        return (weight_BPK.permute(1, 2, 0)[..., None] * experts_PKBM).sum(1)


class Attention(nn.Module):
    """softmax_{q≠p}(MLP(emb(p))), zero at q = p."""

    def __init__(self, settings: Hinet, num_domains: int, build: Build) -> None:
        super().__init__()
        rows = torch.zeros(num_domains + 1, settings.embedding)
        rows[1:].normal_(std=build.embedding_std, generator=build.generator("hinet.embedding"))
        self.embedding = RowTable(rows, "domain")
        hidden = Dense(name="hinet.attention", width=settings.attention, activation="relu")
        self.mlp = Chain((hidden, Dense(name="hinet.weights", width=num_domains)), settings.embedding, build)

    def forward(self, context: Context) -> torch.Tensor:
        """Return the weights of the domains present, (G, P), in the order of `seen_routing`."""
        routing = context.seen_routing
        logits_GP: torch.Tensor = self.mlp(context.read(self.embedding, routing), context)
        own_G1 = routing.present_G[:, None] - 1
        return logits_GP.scatter(1, own_G1, float("-inf")).softmax(1)
