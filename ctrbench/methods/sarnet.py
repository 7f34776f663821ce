"""SAR-Net: a scale and a shift of each domain's own, then experts of its own beside shared ones.

Paper: Shen et al., SAR-Net: A Scenario-Aware Ranking Network, CIKM 2021
Year: 2021

Conditions on: the indicator p; what the tower is given; with attention, e_d
Grows with domains: a scale, a shift and the specific experts a domain

METHODS 7.3. With x what the backbone's tower is given:

    x' = γ_p ⊙ x + β_p        v = Σ_k softmax(x' W)_k f_k(BN(x'))        s = head(tower(v))

over n_s shared experts and n_p of the row's domain, which are small dense layers; a row runs through no other's. The
tower is the backbone's. With `attention`, a sequence of behaviours e_j that has a target t (6.1) is in z not as its
mean but as

    u = Σ_j a_j b_j e_j / Σ_j a_j b_j        a_j = exp MLP_t([e_j ; e_t ; e_j - e_t ; e_j ⊙ e_t])
                                             b_j = exp MLP_d([e_j ; e_d])

and an empty one as a learned vector, which starts at zero.

Readings: γ_p = 1 and β_p = 0 at the start (7.3); one gate for all domains, as in public code, without bias and zero at
the start; tower and head are shared (7.12). Every expert sees the same numbers, so one batch normalisation serves all
of them: the moments are equal, and the affine part merges into an expert's first layer. Its moments are of all rows:
those of a domain's own would undo γ_p and β_p. The unseen domain has what is shared only: γ = 1, β = 0, and a gate over
the shared experts (0.4). Departures: the tower is as wide as the backbone's (11.3), public code has 32-32.

Of the attention, 7.3 has the product of an item's and a scenario's weight; that weights are positive and add up to one
is a reading, by which u starts as the mean, as the MLPs' last layers start at zero. Both are of 80-40-1 as in DIN, with
ReLU. All of the network is given u, but not an auxiliary network or other branches of the logit that read z itself.
Since u stands in for the backbone's pooling, plans that pool by DIN or DIEN are refused with it.

Left out: the scenarios of the behaviours themselves, which no data here tell. The fairness coefficient weighs rows
whose exposure was boosted by hand; no data here tell them either, so it is 1, and no setting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import nn

from ctrbench.extend import (
    BatchNorm,
    Behaviours,
    Build,
    Chain,
    Context,
    Dense,
    DomainDense,
    Field,
    Method,
    Plan,
    Stage,
    StageModule,
    TowerBank,
    domain_table,
    full_precision,
    later,
    mixed,
    named,
)

WIDTHS = (80, 40)
"""Hidden layers of both attentions."""
Size = Annotated[int, Field(ge=1)]


class Sarnet(Method):
    """Inputs scaled and shifted for their domain, and a mixture of debias experts before the tower."""

    indexed_by = "indicator"

    shared: int = Field(default=8, ge=1)
    """Experts of all domains, n_s."""
    specific: int = Field(default=2, ge=1)
    """Experts of each domain's own, n_p."""
    expert: tuple[Size, ...] = Field(default=(16,), min_length=1)
    """Widths of an expert's layers."""

    attention: bool = later(False)
    """Whether sequences that have a target are attended to, for their items and for the row's domain."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the mixture before its tower, and the attention at its input."""
        plan = plan.wrap_tower(self._debiased)
        if not self.attention:
            return plan
        # First at the input: what a backbone has there is given u.
        return replace(plan, at_input=(Attention(name="sarnet.attention"), *plan.at_input), attends=True)

    def _debiased(self, stages: tuple[Stage, ...]) -> Debiased:
        tower = tuple(stage for stage in stages if isinstance(stage, Dense))
        expert = tuple(
            Dense(name=f"expert{place}", width=width, activation=tower[0].activation)
            for place, width in enumerate(self.expert)
        )
        return Debiased(name="sarnet", settings=self, expert=expert, tower=tower)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower is not made of dense stages, or whose pooling the attention would replace."""
        if self.attention and plan.pooling.kind != "mean":
            return f"attention stands in for the pooling of sequences, here {plan.pooling.kind}"
        is_dense = plan.tower and all(isinstance(stage, Dense) for stage in plan.tower)
        return None if is_dense else "experts stand before a tower of dense layers, and this plan has none"


@dataclass(frozen=True, kw_only=True)
class Debiased(Stage):
    """Scale and shift, the mixture, and the tower."""

    settings: Sarnet
    expert: tuple[Dense, ...]
    tower: tuple[Dense, ...]

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; γ_p = 1, β_p = 0, gate zero."""
        return DebiasedModule(self, num_inputs, build)


class DebiasedModule(StageModule):
    """Computes `Debiased`."""

    def __init__(self, stage: Debiased, num_inputs: int, build: Build) -> None:
        super().__init__()
        num_shared, num_specific = stage.settings.shared, stage.settings.specific
        affine_2N = torch.stack([torch.ones(num_inputs), torch.zeros(num_inputs)])
        self.domain_affine = domain_table(build.schema.num_indicators, affine_2N)
        self.norm = BatchNorm(name=f"{stage.name}.norm").build(num_inputs, build)
        self.gate = nn.Parameter(torch.zeros(num_inputs, num_shared + num_specific))
        self.shared = TowerBank(named(stage.expert, "sarnet.shared"), num_shared, num_inputs, build)
        towers = (named(stage.expert, f"sarnet.specific{place}") for place in range(num_specific))
        self.specific = nn.ModuleList(
            Chain(tuple(DomainDense.like(dense) for dense in tower), num_inputs, build) for tower in towers
        )
        self.tower = Chain(stage.tower, stage.expert[-1].width, build)
        self.num_outputs = self.tower.num_outputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        scale_GN, shift_GN = context.read(self.domain_affine).unbind(1)
        x_BN = context.routing.spread(shift_GN) + x_BN * context.routing.spread(scale_GN)
        normed_BN = self.norm(x_BN, context)
        specific_KBM = torch.stack([expert(normed_BN, context) for expert in self.specific])
        experts_KBM = torch.cat([self.shared(normed_BN), specific_KBM])
        tower_BM: torch.Tensor = self.tower(mixed(self._weights(x_BN, context), experts_KBM), context)
        return tower_BM

    def _weights(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Return the gate, (B, K), shared experts first; an unseen domain has no others."""
        logits_BK, routing = x_BN @ self.gate, context.routing
        if not routing.has(0):
            return logits_BK.softmax(1)
        is_unseen_B1 = (routing.present_G == 0).index_select(0, routing.index_B)[:, None]
        num_specific = len(self.specific)
        shared_BK, specific_BK = logits_BK[:, :-num_specific], logits_BK[:, -num_specific:]
        specific_BK = specific_BK.masked_fill(is_unseen_B1, float("-inf"))
        return torch.cat([shared_BK, specific_BK], dim=1).softmax(1)


@dataclass(frozen=True, kw_only=True)
class Attention(Stage):
    """z with u in place of the mean of each sequence that has a target."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; every u starts as the mean."""
        return AttentionModule(self, num_inputs, build)


class AttentionModule(StageModule):
    """Computes `Attention`, with weights of its own for each sequence."""

    def __init__(self, stage: Attention, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        self.sequences = tuple(build.schema.targets)
        self.attentions = nn.ModuleList(
            TwoAttentions(f"{stage.name}.{name}", build) for name in self.sequences
        )

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        for name, attention in zip(self.sequences, self.attentions, strict=True):
            place, u_BE = context.schema.slices[name], attention(context.behaviours[name], context)
            x_BN = x_BN.slice_scatter(u_BE, 1, place.start, place.stop)
        context.gated_BN = x_BN
        return x_BN


class TwoAttentions(nn.Module):
    """u of one sequence."""

    def __init__(self, label: str, build: Build) -> None:
        super().__init__()
        size = build.schema.embedding_size
        self.item = Scores(f"{label}.item", 4 * size, build)
        self.scenario = Scores(f"{label}.scenario", size + build.schema.domain_width, build)
        self.empty_E = nn.Parameter(torch.zeros(size))

    def forward(self, behaviours: Behaviours, context: Context) -> torch.Tensor:
        """Return (B, E)."""
        lists, e_nE = behaviours.lists, behaviours.rows_nE
        target_nE, domain_nD = (
            rows.index_select(0, lists.owner_n) for rows in (behaviours.target_BE, context.domain_BE)
        )
        of_item = torch.cat([e_nE, target_nE, e_nE - target_nE, e_nE * target_nE], dim=1)
        score_n1 = self.item(of_item, context)
        score_n1 = score_n1 + self.scenario(torch.cat([e_nE, domain_nD], dim=1), context)
        with full_precision(e_nE.device):
            share_n1 = lists.softmax(score_n1.to(e_nE.dtype))
            return lists.sum(share_n1 * e_nE) + lists.is_empty_B1 * self.empty_E


class Scores(nn.Module):
    """A network of one output, which starts at zero; a bias there would be lost in the shares."""

    def __init__(self, label: str, num_inputs: int, build: Build) -> None:
        super().__init__()
        hidden = (
            Dense(name=f"{label}.hidden{place}", width=width, activation="relu")
            for place, width in enumerate(WIDTHS)
        )
        self.hidden = Chain(tuple(hidden), num_inputs, build)
        self.output = nn.Parameter(torch.zeros(WIDTHS[-1], 1))

    def forward(self, x_nN: torch.Tensor, context: Context) -> torch.Tensor:
        """(n, N) to (n, 1)."""
        score_n1: torch.Tensor = self.hidden(x_nN, context) @ self.output
        return score_n1
