"""SAR-Net: a scale and a shift per domain, then experts of the domain beside shared ones.

Paper: Shen et al., SAR-Net: A Scenario-Aware Ranking Network, CIKM 2021
Year: 2021
Uses: the indicator p and the tower's input; with `attention` also e_d
Parameters per domain: a scale, a shift and the specific experts

With x the tower's input (spec: sarnet-7.3):

    x' = γ_p ⊙ x + β_p        v = Σ_k softmax(x' W)_k f_k(BN(x'))        s = head(tower(v))

over n_s shared experts and n_p experts of the row's domain, which are small dense layers. The tower is the backbone's.
With `attention`, a sequence of behaviors e_j that has a target t (spec: pooling-6.1) enters z not as its mean but as

    u = Σ_j a_j b_j e_j / Σ_j a_j b_j        a_j = exp MLP_t([e_j ; e_t ; e_j - e_t ; e_j ⊙ e_t])
                                             b_j = exp MLP_d([e_j ; e_d])

and an empty one as a learned vector, which starts at zero.

Plan: the tower becomes the inner part of one stage; with `attention` one stage at the input.

Choices: γ_p = 1 and β_p = 0 at the start. One gate serves all domains, as in public code, without bias and zero at the
start. Tower and head are shared (spec: overview-7.12). All experts read the same numbers, so one batch normalization
serves them all: its moments are equal for each, and its affine part merges into an expert's first layer. Its moments
are those of all rows; moments per domain would undo γ_p and β_p. The unseen domain has the shared parts only: γ = 1, β
= 0 and a gate over the shared experts (spec: conventions-0.4). The paper's attention is the product of an item weight
and a scenario weight; positive weights that sum to one are a choice, under which u starts as the mean, since the last
layers of the MLPs start at zero. Both MLPs have the layers 80-40-1 as in DIN, with ReLU.

Deviations: the tower is as wide as the backbone's (spec: comparison-11.3); public code has 32-32.

Not implemented: scenarios of the behaviors, and the fairness coefficient of rows whose exposure was raised by hand; no
dataset here holds either.

Limits: auxiliary networks and other logit branches that read z itself do not read u. Plans that pool by DIN or DIEN are
refused with `attention`, which replaces that pooling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import nn

from ctrbench.extend import (
    BatchNorm,
    Behaviors,
    Build,
    Chain,
    Choices,
    Context,
    Dense,
    DomainDense,
    Field,
    Method,
    Plan,
    Stage,
    StageModule,
    TowerBank,
    added_field,
    dense_stages,
    domain_table,
    full_precision,
    weighted_sum,
    with_prefix,
)

WIDTHS = (80, 40)
"""Hidden layers of both attentions."""
Size = Annotated[int, Field(ge=1, le=65_536)]


class Sarnet(Method):
    """Inputs scaled and shifted per domain, and a mixture of debias experts before the tower."""

    indexed_by = "indicator"

    shared: Annotated[int, Choices(2, 4, 8)] = Field(default=8, ge=1, le=256)
    """n_s, the number of shared experts."""
    specific: Annotated[int, Choices(1, 2, 4)] = Field(default=2, ge=1, le=256)
    """n_p, the number of experts per domain."""
    expert: Annotated[tuple[Size, ...], Choices("16", "32", "64")] = Field(
        default=(16,), min_length=1, max_length=64
    )
    """Widths of an expert's layers."""
    attention: bool = added_field(False)
    """Whether sequences that have a target are pooled by attention to the target and the domain."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the mixture before its tower and, if set, the attention at its input."""
        plan = plan.wrap_tower(self._debiased_stage)
        if not self.attention:
            return plan
        # First at the input, so that a backbone's own input stage reads u.
        return replace(plan, at_input=(Attention(name="sarnet.attention"), *plan.at_input), attends=True)

    def _debiased_stage(self, stages: tuple[Stage, ...]) -> Debiased:
        tower = dense_stages(stages)
        expert = tuple(
            replace(tower[0], name=f"expert{i}", width=width) for i, width in enumerate(self.expert)
        )
        return Debiased(name="sarnet", settings=self, expert=expert, tower=tower)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower has other stages than dense ones, or whose pooling the attention replaces."""
        if self.attention and plan.pooling.kind != "mean":
            return f"attention replaces the pooling of sequences, here {plan.pooling.kind}"
        if plan.has_dense_tower:
            return None
        return "experts need a tower of dense layers behind them, and this plan has none"


@dataclass(frozen=True, kw_only=True)
class Debiased(Stage):
    """Scale and shift, the mixture, and the tower."""

    settings: Sarnet
    expert: tuple[Dense, ...]
    tower: tuple[Dense, ...]

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; γ_p = 1, β_p = 0, gate zero."""
        return DebiasedModule(self, num_inputs, build)


class DebiasedModule(StageModule):
    """Computes `Debiased`."""

    def __init__(self, stage: Debiased, num_inputs: int, build: Build) -> None:
        super().__init__()
        num_shared, num_specific = stage.settings.shared, stage.settings.specific
        affine_2N = torch.stack([torch.ones(num_inputs), torch.zeros(num_inputs)])
        self.domain_affine = domain_table(build.schema.num_indicators, affine_2N, num_decayed=0)
        self.norm = BatchNorm(name=f"{stage.name}.norm").build(num_inputs, build)
        self.gate = nn.Parameter(torch.zeros(num_inputs, num_shared + num_specific))
        self.shared = TowerBank(with_prefix(stage.expert, "sarnet.shared"), num_shared, num_inputs, build)
        towers = (with_prefix(stage.expert, f"sarnet.specific{i}") for i in range(num_specific))
        self.specific = nn.ModuleList(
            Chain(tuple(DomainDense.like(dense) for dense in tower), num_inputs, build) for tower in towers
        )
        self.tower = Chain(stage.tower, stage.expert[-1].width, build)
        self.num_outputs = self.tower.num_outputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        scale_GN, shift_GN = context.read(self.domain_affine).unbind(1)
        x_BN = context.routing.broadcast(shift_GN) + x_BN * context.routing.broadcast(scale_GN)
        normed_BN = self.norm(x_BN, context)
        specific_KBM = torch.stack([expert(normed_BN, context) for expert in self.specific])
        experts_KBM = torch.cat([self.shared(normed_BN, context), specific_KBM])
        tower_BM: torch.Tensor = self.tower(
            weighted_sum(self._gate_weights(x_BN, context), experts_KBM), context
        )
        return tower_BM

    def _gate_weights(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Return the gate, (B, K), shared experts first; specific experts of an unseen domain have weight 0."""
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
    """z with u instead of the mean of each sequence that has a target."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; every u starts as the mean."""
        return AttentionModule(self, num_inputs, build)


class AttentionModule(StageModule):
    """Computes `Attention`, with separate weights per sequence."""

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
            columns, u_BE = context.schema.slices[name], attention(context.behaviors[name], context)
            x_BN = x_BN.slice_scatter(u_BE, 1, columns.start, columns.stop)
        context.gated_BN = x_BN
        return x_BN


class TwoAttentions(nn.Module):
    """The pooled vector u of one sequence."""

    def __init__(self, label: str, build: Build) -> None:
        super().__init__()
        size = build.schema.embedding_size
        self.item = Scores(f"{label}.item", 4 * size, build)
        self.scenario = Scores(f"{label}.scenario", size + build.schema.domain_width, build)
        self.empty_E = nn.Parameter(torch.zeros(size))

    def forward(self, behaviors: Behaviors, context: Context) -> torch.Tensor:
        """Return u, (B, E)."""
        lists, e_nE = behaviors.lists, behaviors.rows_nE
        target_nE, domain_nD = (
            rows.index_select(0, lists.owner_n) for rows in (behaviors.target_BE, context.domain_BE)
        )
        of_item = torch.cat([e_nE, target_nE, e_nE - target_nE, e_nE * target_nE], dim=1)
        score_n1 = self.item(of_item, context)
        score_n1 = score_n1 + self.scenario(torch.cat([e_nE, domain_nD], dim=1), context)
        with full_precision(e_nE.device):
            share_n1 = lists.softmax(score_n1.to(e_nE.dtype))
            return lists.sum(share_n1 * e_nE) + lists.is_empty_B1 * self.empty_E


class Scores(nn.Module):
    """A network with one output, zero at the start; it has no output bias, which the softmax would cancel."""

    def __init__(self, label: str, num_inputs: int, build: Build) -> None:
        super().__init__()
        hidden = (
            Dense(name=f"{label}.hidden{i}", width=width, activation="relu") for i, width in enumerate(WIDTHS)
        )
        self.hidden = Chain(tuple(hidden), num_inputs, build)
        self.output = nn.Parameter(torch.zeros(WIDTHS[-1], 1))

    def forward(self, x_nN: torch.Tensor, context: Context) -> torch.Tensor:
        """(n, N) to (n, 1)."""
        score_n1: torch.Tensor = self.hidden(x_nN, context) @ self.output
        return score_n1
