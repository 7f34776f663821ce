"""SAML: shared and own transforms of the inputs, one branch per domain, and a unit in which branches inform each other.

Paper: Chen et al., Scenario-Aware and Mutual-based Approach for Multi-Scenario Recommendation, arXiv 2012.09062
Year: 2020
Uses: the indicator p and the tower's input
Parameters per domain: a transform of the inputs and one tower

The tower's input e is cut into groups as wide as an embedding; each group has its own matrices. Towers have the
backbone's widths (spec: saml-7.2):

    g = W_g e     u_p = W_p e     a = tower(g)     b_p = tower_p([g ; u_p])
    c_pq = cos(b_p, b_q)     w_pq = softmax_{q≠p}(c_pq / τ)     m_p = Σ_q w_pq sg(b_q)
    γ = σ(W [b_p ; m_p])     b'_p = γ ⊙ b_p + (1 - γ) ⊙ m_p     s = head([a ; b'_p])

Every row runs through the branches of all M domains, with gradients for its own branch only. Without the mutual unit,
b'_p = b_p, and a row runs through its own branch only.

With `attention`, each sequence of behaviors e_j that has a target t (spec: pooling-6.1) adds a group to e. It differs
from transform to transform: for W_g and for each W_p, with V the group's own matrix in it, the group is

    Σ_j a_j e_j        a_j = softmax_j(<e_j V, e_t V>)

and enters g, or u_p, as Σ_j a_j e_j V. The group of an empty sequence is a learned vector, which starts at zero.

Plan: the tower becomes the inner part of one stage.

Choices: gradients also stop at b_q in c_pq; otherwise a row would train branches of absent domains
(spec: conventions-0.5). A group is a piece of the tower's input with the width of an embedding, the last one padded
with zeros; where the tower reads z, a group is a field, and numeric fields share groups. Transforms start as the
identity and the domains alike. W has a bias; tower, head and W are shared. A row of an unseen domain is treated as one
of the largest domain (spec: conventions-0.4). With one domain there is no mutual unit. W_p and the part of the first
layer behind it are merged into one matrix per domain, once per step. Of the attention, the specification says only that
both transforms have it; inner products, as in DIEN, and one matrix for behaviors and target are choices. A stacked
tower reads no fields, so in every plan the group comes in addition to the tower's input; the backbone's pooling of the
sequence stays in z.

Limits: more domains than `max_domains` are refused with the mutual unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional

from ctrbench.extend import (
    Behaviors,
    Build,
    Capabilities,
    Chain,
    Choices,
    Context,
    Dense,
    Field,
    LayerOutput,
    LogRange,
    Method,
    Plan,
    RowTable,
    Stage,
    StageModule,
    added_field,
    dense_stages,
    domain_table,
    full_precision,
    refuse_many_domains,
    start_weight,
    weighted_sum,
    with_prefix,
)

COSINE_EPS = 1e-6
"""Smallest length by which a branch's output is divided."""


class Saml(Method):
    """A branch per domain beside a shared tower, mutually informed."""

    indexed_by = "indicator"

    mutual: Annotated[bool, Choices(True, False)] = True
    """Whether branches inform each other; otherwise b'_p = b_p."""
    temperature: Annotated[float, LogRange(0.05, 1.0)] = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    """τ, the temperature of the weights of other branches."""
    max_domains: int = Field(default=32, ge=1, le=65_536)
    """Largest number of domains with the mutual unit; every row runs through the branches of all."""
    attention: bool = added_field(False)
    """Whether the shared and the domain's transform attend to sequences that have a target."""

    def idle(self) -> tuple[str, ...]:
        """Return the settings of the mutual unit where there is none."""
        return () if self.mutual else ("temperature", "max_domains")

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a shared tower and one per domain instead of its own."""
        return replace(plan.wrap_tower(self._branched_stage), attends=self.attention)

    def _branched_stage(self, stages: tuple[Stage, ...]) -> Branched:
        tower = dense_stages(stages)
        return Branched(name="saml", settings=self, tower=tower)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower has other stages than dense ones."""
        return (
            None
            if plan.has_dense_tower
            else "branches replace a tower of dense layers, and this plan has none"
        )


@dataclass(frozen=True, kw_only=True)
class Branched(Stage):
    """Shared tower and branches, from e to [a ; b'_p]."""

    settings: Saml
    tower: tuple[Dense, ...]

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; raise `SettingError` for too many domains with the mutual unit."""
        if self.settings.mutual:
            refuse_many_domains(build.schema, self.settings.max_domains)
        return BranchedModule(self, num_inputs, build)


class BranchedModule(StageModule):
    """Computes `Branched`."""

    def __init__(self, stage: Branched, num_inputs: int, build: Build) -> None:
        super().__init__()
        size = build.schema.embedding_size
        num_groups = -(-num_inputs // size)
        self.num_filled = num_groups * size - num_inputs
        self.histories = Histories(build) if stage.settings.attention else None
        num_groups += len(build.schema.targets) if self.histories is not None else 0
        eye_FEE = torch.eye(size).repeat(num_groups, 1, 1)
        self.transform = nn.Parameter(eye_FEE)
        self.shared = Chain(stage.tower, num_groups * size, build)
        self.branches = Branches(with_prefix(stage.tower, "saml"), eye_FEE, build)
        width = self.shared.num_outputs
        has_others = stage.settings.mutual and build.schema.num_indicators > 1
        self.mutual = Mutual(stage.settings.temperature, width, build) if has_others else None
        self.num_outputs = 2 * width

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, 2 M)."""
        x_BN = functional.pad(x_BN, (0, self.num_filled))
        g_BN = self._transform(x_BN, context)
        both_BN = torch.cat([g_BN, x_BN], dim=1)
        own_BM = self.branches.own(both_BN, context, self.histories)
        if self.mutual is not None:
            own_BM = self.mutual(own_BM, self.branches.every(both_BN, context, self.histories), context)
        return torch.cat([self.shared(g_BN, context), own_BM], dim=1)

    def _transform(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Map e, (B, N), to g, which has the groups of sequences in addition."""
        if self.histories is not None:
            x_BN = torch.cat([x_BN, self.histories.of_all(self.transform, context)], dim=1)
        x_BFE = x_BN.view(len(x_BN), *self.transform.shape[:2])
        return torch.bmm(x_BFE.transpose(0, 1), self.transform).transpose(0, 1).flatten(1)


class Branches(nn.Module):
    """tower_p([g ; W_p e]) per domain, on rows [g ; e]; domains start alike."""

    def __init__(self, tower: tuple[Dense, ...], eye_FEE: torch.Tensor, build: Build) -> None:
        super().__init__()
        self.outputs = nn.ModuleList(dense.make_output() for dense in tower)
        num_inputs = 2 * eye_FEE.shape[0] * eye_FEE.shape[1]
        starts = [eye_FEE]
        for dense in tower:
            generator = build.generator(f"{dense.name}.weight")
            weight_NM = start_weight(num_inputs, dense.width, dense.activation, generator)
            starts.append(torch.cat([weight_NM, torch.zeros(1, dense.width)]))
            num_inputs = dense.width
        num_decayed = [eye_FEE.numel(), *(start.numel() - start.shape[1] for start in starts[1:])]
        self.tables = nn.ModuleList(
            domain_table(build.schema.num_indicators, start, num_decayed=count)
            for start, count in zip(starts, num_decayed, strict=True)
        )

    def own(
        self, both_BN: torch.Tensor, context: Context, histories: Histories | None = None
    ) -> torch.Tensor:
        """Run each row through its own domain's branch: (B, 2 N) to (B, M)."""
        routing, x_BN = context.seen_routing, both_BN
        rows = [context.read(table, routing) for table in self._row_tables()]
        if histories is not None:
            x_BN = torch.cat([x_BN, histories.of_own(rows[0], context)], dim=1)
        for i, (weight_GNM, bias_GM) in enumerate(_merged_layers(rows)):
            product_BM = routing.linear(x_BN, weight_GNM) + routing.broadcast(bias_GM)
            x_BN = self.outputs[i](product_BM, context)
        return x_BN

    @torch.no_grad()
    def every(
        self, both_BN: torch.Tensor, context: Context, histories: Histories | None = None
    ) -> torch.Tensor:
        """Run all rows through all branches, without gradient and as in scoring: (B, 2 N) to (P, B, M)."""
        rows = [table.weight[1:] for table in self._row_tables()]
        x = both_BN.expand(len(rows[0]), *both_BN.shape)
        if histories is not None:
            x = torch.cat([x, histories.of_each(rows[0], context)], dim=2)
        for i, (weight_PNM, bias_PM) in enumerate(_merged_layers(rows)):
            output = self.outputs[i]
            assert isinstance(output, LayerOutput)
            x = output.score(torch.baddbmm(bias_PM[:, None], x, weight_PNM), context)
        return x

    def _row_tables(self) -> list[RowTable]:
        return [table for table in self.tables if isinstance(table, RowTable)]


def _merged_layers(rows: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield weights (G, N, M) and biases (G, M) of the layers, with the transform merged into the first."""
    transform_GFEE, first, *others = rows
    num_filled = first.shape[1] - 1
    of_g, of_u, bias = torch.split(first, [num_filled // 2, num_filled // 2, 1], dim=1)
    of_u_GFEM = of_u.reshape(*transform_GFEE.shape[:3], -1)
    yield torch.cat([of_g, (transform_GFEE @ of_u_GFEM).flatten(1, 2)], dim=1), bias[:, 0]
    for layer in others:
        yield layer[:, :-1], layer[:, -1]


class Histories(nn.Module, Capabilities):
    """Attends to each sequence with one matrix of a transform; these are its last ones, in the order of the targets."""

    not_matrices = ("empty_HE",)

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.sequences = tuple(build.schema.targets)
        self.empty_HE = nn.Parameter(torch.zeros(len(self.sequences), build.schema.embedding_size))

    def of_all(self, transform_FEE: torch.Tensor, context: Context) -> torch.Tensor:
        """Return the groups of all rows under one transform, (B, H E)."""
        groups = [
            self._attend(i, (behaviors.target_BE @ _gram_matrix(transform_FEE[i]))[:, None], behaviors)
            for i, behaviors in self._behaviors(context)
        ]
        return torch.cat(groups, dim=2)[:, 0]

    def of_own(self, transform_GFEE: torch.Tensor, context: Context) -> torch.Tensor:
        """Return the groups of each row under its domain's transform, (B, H E)."""
        routing = context.seen_routing
        groups = [
            self._attend(
                i,
                routing.linear(behaviors.target_BE, _gram_matrix(transform_GFEE[:, i]))[:, None],
                behaviors,
            )
            for i, behaviors in self._behaviors(context)
        ]
        return torch.cat(groups, dim=2)[:, 0]

    def of_each(self, transform_PFEE: torch.Tensor, context: Context) -> torch.Tensor:
        """Return the groups of all rows under each domain's transform, (P, B, H E)."""
        groups = [
            self._attend(
                i, (behaviors.target_BE @ _gram_matrix(transform_PFEE[:, i])).transpose(0, 1), behaviors
            )
            for i, behaviors in self._behaviors(context)
        ]
        return torch.cat(groups, dim=2).transpose(0, 1)

    def _behaviors(self, context: Context) -> Iterator[tuple[int, Behaviors]]:
        """Yield the index of each sequence's matrix in a transform, counted from its end, and the sequence."""
        for i, name in enumerate(self.sequences, start=-len(self.sequences)):
            yield i, context.behaviors[name]

    def _attend(self, index: int, query_BKE: torch.Tensor, behaviors: Behaviors) -> torch.Tensor:
        """Return Σ_j softmax_j(<e_j, query>) e_j, (B, K, E)."""
        lists, e_n1E = behaviors.lists, behaviors.rows_nE[:, None]
        with full_precision(e_n1E.device):
            query_nKE = query_BKE.to(e_n1E.dtype).index_select(0, lists.owner_n)
            share_nK = lists.softmax((e_n1E * query_nKE).sum(2))
            summed_BKE = lists.sum((share_nK[:, :, None] * e_n1E).flatten(1)).view(query_BKE.shape)
        return summed_BKE + lists.is_empty_B1[:, :, None] * self.empty_HE[index]


def _gram_matrix(v: torch.Tensor) -> torch.Tensor:
    """Return V V^T of a matrix or of a stack of matrices."""
    return v @ v.mT


class Mutual(nn.Module):
    """The mutual unit, from b_p and the branches of all domains to b'_p."""

    def __init__(self, temperature: float, width: int, build: Build) -> None:
        super().__init__()
        self.temperature = temperature
        self.gate = Dense(name="saml.gate", width=width).build(2 * width, build)

    def forward(self, own_BM: torch.Tensor, all_PBM: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, M) and (P, B, M) to (B, M)."""
        routing = context.seen_routing
        unit_BM, unit_PBM = (functional.normalize(x, dim=-1, eps=COSINE_EPS) for x in (own_BM, all_PBM))
        cosine_BP = (unit_BM * unit_PBM).sum(2).T
        own_B1 = (routing.present_G - 1).index_select(0, routing.index_B)[:, None]
        weight_BP = (cosine_BP / self.temperature).scatter(1, own_B1, float("-inf")).softmax(1)
        others_BM = weighted_sum(weight_BP, all_PBM)
        gate_BM = torch.sigmoid(self.gate(torch.cat([own_BM, others_BM], dim=1), context))
        return gate_BM * own_BM + (1.0 - gate_BM) * others_BM
