"""SAML: shared and own transforms of the inputs, a branch a domain, and a unit that lets branches learn of one another.

Paper: Chen et al., Scenario-Aware and Mutual-based Approach for Multi-Scenario Recommendation, arXiv 2012.09062
Year: 2020

Conditions on: the indicator p; what the tower is given
Grows with domains: a transform of the inputs and a tower a domain

METHODS 7.2. With e what the tower is given, in groups of as many numbers as an embedding has, each with matrices of its
own; towers have the backbone's widths:

    g = W_g e     u_p = W_p e     a = tower(g)     b_p = tower_p([g ; u_p])
    c_pq = cos(b_p, b_q)     w_pq = softmax_{q≠p}(c_pq / τ)     m_p = Σ_q w_pq sg(b_q)
    γ = σ(W [b_p ; m_p])     b'_p = γ ⊙ b_p + (1 - γ) ⊙ m_p     s = head([a ; b'_p])

Every row runs through the branches of all M domains, forwards only but for its own; more domains than `max_domains`
are refused. Without the mutual unit, b'_p = b_p, and a row runs through its own branch alone, of any number.

With `attention`, a sequence of behaviours e_j that has a target t (6.1) is one group more of e, which differs from
transform to transform. For W_g, and for each W_p, with V the group's own matrix in it, the group is

    Σ_j a_j e_j        a_j = softmax_j(<e_j V, e_t V>)

and so enters g, or u_p, as Σ_j a_j e_j V. That of an empty sequence is a learned vector, which starts at zero.

Readings: gradients stop at b_q in c_pq as well, or a row would train branches of absent domains (0.5 no. 3). A group
is a piece of the tower's input as long as an embedding, the last one filled up with zeros: where the tower is given
z, a field, though plain numbers share pieces. Transforms start as the identity and the domains alike. W has a bias;
tower, head and W are shared. An unseen domain is treated as the largest (0.4). A single domain has nobody to learn
of, and so no unit. W_p and the part of the first layer behind it merge into one matrix a domain, once a step. Of the
attention 7.2 has only that it is on both transforms: inner products as in DIEN, and one matrix for behaviours and
target, are readings. Stacked towers are given no field, so the group comes beside what a tower is given, in every plan
alike; what the backbone's pooling makes of the sequence stays in z.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from ctrbench.extend import (
    Behaviours,
    Build,
    Chain,
    Context,
    Dense,
    Field,
    Method,
    Plan,
    RowTable,
    Stage,
    StageModule,
    activate,
    domain_table,
    full_precision,
    later,
    mixed,
    model_validator,
    named,
    refuse_many_domains,
    start_weight,
)

COSINE_EPS = 1e-6
"""Least length that a branch's output is divided by."""


class Saml(Method):
    """Branches of the domains' own beside a shared tower, mutually informed."""

    indexed_by = "indicator"

    mutual: bool = True
    """Whether branches learn of one another; without, b'_p = b_p."""
    temperature: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    """τ."""
    max_domains: int = Field(default=32, ge=1)
    """Most domains with the mutual unit, since every row runs through the branches of all."""

    attention: bool = later(False)
    """Whether shared and domain's transforms attend to the sequences that have a target."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in () if self.mutual else ("temperature", "max_domains"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect without the mutual unit; leave it out")
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a shared and a domain's tower for its own."""
        return replace(plan.wrap_tower(self._branched), attends=self.attention)

    def _branched(self, stages: tuple[Stage, ...]) -> Branched:
        tower = tuple(stage for stage in stages if isinstance(stage, Dense))
        return Branched(name="saml", settings=self, tower=tower)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower is not made of dense stages."""
        is_dense = plan.tower and all(isinstance(stage, Dense) for stage in plan.tower)
        return None if is_dense else "branches are towers of dense layers, and this plan's tower is none"


@dataclass(frozen=True, kw_only=True)
class Branched(Stage):
    """From e to [a ; b'_p]."""

    settings: Saml
    tower: tuple[Dense, ...]

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; refuse too many domains where every row meets all of them."""
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
        self.branches = Branches(named(stage.tower, "saml"), eye_FEE, build)
        width = self.shared.num_outputs
        has_others = stage.settings.mutual and build.schema.num_indicators > 1
        self.mutual = Mutual(stage.settings.temperature, width, build) if has_others else None
        self.num_outputs = 2 * width

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, 2 M)."""
        x_BN = functional.pad(x_BN, (0, self.num_filled))
        g_BN = self._transformed(x_BN, context)
        both_BN = torch.cat([g_BN, x_BN], dim=1)
        own_BM = self.branches.own(both_BN, context, self.histories)
        if self.mutual is not None:
            own_BM = self.mutual(own_BM, self.branches.every(both_BN, context, self.histories), context)
        return torch.cat([self.shared(g_BN, context), own_BM], dim=1)

    def _transformed(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Return g, (B, N) to (B, N) and the sequences' groups."""
        if self.histories is not None:
            x_BN = torch.cat([x_BN, self.histories.of_all(self.transform, context)], dim=1)
        x_BFE = x_BN.view(len(x_BN), *self.transform.shape[:2])
        return torch.bmm(x_BFE.transpose(0, 1), self.transform).transpose(0, 1).flatten(1)


class Branches(nn.Module):
    """tower_p([g ; W_p e]) of the domains, on rows [g ; e]; domains start alike."""

    def __init__(self, tower: tuple[Dense, ...], eye_FEE: torch.Tensor, build: Build) -> None:
        super().__init__()
        self.activations = [dense.activation for dense in tower]
        num_inputs = 2 * eye_FEE.shape[0] * eye_FEE.shape[1]
        starts = [eye_FEE]
        for dense in tower:
            generator = build.generator(f"{dense.name}.weight")
            weight_NM = start_weight(num_inputs, dense.width, dense.activation, generator)
            starts.append(torch.cat([weight_NM, torch.zeros(1, dense.width)]))
            num_inputs = dense.width
        self.tables = nn.ModuleList(domain_table(build.schema.num_indicators, start) for start in starts)

    def own(
        self, both_BN: torch.Tensor, context: Context, histories: Histories | None = None
    ) -> torch.Tensor:
        """Run each row through its own domain's branch: (B, 2 N) to (B, M)."""
        routing, x_BN = context.known_routing, both_BN
        rows = [context.read(table, routing) for table in self._row_tables()]
        if histories is not None:
            x_BN = torch.cat([x_BN, histories.of_own(rows[0], context)], dim=1)
        for place, (weight_GNM, bias_GM) in enumerate(_layers(rows)):
            product_BM = routing.linear(x_BN, weight_GNM) + routing.spread(bias_GM)
            x_BN = activate(product_BM, self.activations[place])
        return x_BN

    @torch.no_grad()
    def every(
        self, both_BN: torch.Tensor, context: Context, histories: Histories | None = None
    ) -> torch.Tensor:
        """Run all rows through all branches, without gradient: (B, 2 N) to (P, B, M)."""
        rows = [table.weight[1:] for table in self._row_tables()]
        x = both_BN.expand(len(rows[0]), *both_BN.shape)
        if histories is not None:
            x = torch.cat([x, histories.of_each(rows[0], context)], dim=2)
        for place, (weight_PNM, bias_PM) in enumerate(_layers(rows)):
            x = activate(torch.baddbmm(bias_PM[:, None], x, weight_PNM), self.activations[place])
        return x

    def _row_tables(self) -> list[RowTable]:
        return [table for table in self.tables if isinstance(table, RowTable)]


def _layers(rows: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield weights (G, N, M) and biases (G, M) of the layers, the transform merged into the first."""
    transform_GFEE, first, *others = rows
    num_filled = first.shape[1] - 1
    of_g, of_u, bias = torch.split(first, [num_filled // 2, num_filled // 2, 1], dim=1)
    of_u_GFEM = of_u.reshape(*transform_GFEE.shape[:3], -1)
    yield torch.cat([of_g, (transform_GFEE @ of_u_GFEM).flatten(1, 2)], dim=1), bias[:, 0]
    for one in others:
        yield one[:, :-1], one[:, -1]


class Histories(nn.Module):
    """Attends to each sequence by the matrices that are the last of a transform, in the order of the targets."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.sequences = tuple(build.schema.targets)
        self.empty_HE = nn.Parameter(torch.zeros(len(self.sequences), build.schema.embedding_size))

    def of_all(self, transform_FEE: torch.Tensor, context: Context) -> torch.Tensor:
        """Return what all rows attend to by one transform, (B, H E)."""
        groups = [
            self._attended(place, (one.target_BE @ _square(transform_FEE[place]))[:, None], one)
            for place, one in self._behaviours(context)
        ]
        return torch.cat(groups, dim=2)[:, 0]

    def of_own(self, transform_GFEE: torch.Tensor, context: Context) -> torch.Tensor:
        """Return what each row attends to by its domain's transform, (B, H E)."""
        routing = context.known_routing
        groups = [
            self._attended(
                place, routing.linear(one.target_BE, _square(transform_GFEE[:, place]))[:, None], one
            )
            for place, one in self._behaviours(context)
        ]
        return torch.cat(groups, dim=2)[:, 0]

    def of_each(self, transform_PFEE: torch.Tensor, context: Context) -> torch.Tensor:
        """Return what all rows attend to by each domain's transform, (P, B, H E)."""
        groups = [
            self._attended(place, (one.target_BE @ _square(transform_PFEE[:, place])).transpose(0, 1), one)
            for place, one in self._behaviours(context)
        ]
        return torch.cat(groups, dim=2).transpose(0, 1)

    def _behaviours(self, context: Context) -> Iterator[tuple[int, Behaviours]]:
        """Yield the sequences, and the places of their matrices in a transform, counted from its end."""
        for place, name in enumerate(self.sequences, start=-len(self.sequences)):
            yield place, context.behaviours[name]

    def _attended(self, place: int, asked_BKE: torch.Tensor, behaviours: Behaviours) -> torch.Tensor:
        """Return Σ_j softmax_j(<e_j, asked>) e_j, (B, K, E)."""
        lists, e_n1E = behaviours.lists, behaviours.rows_nE[:, None]
        with full_precision(e_n1E.device):
            asked_nKE = asked_BKE.to(e_n1E.dtype).index_select(0, lists.owner_n)
            share_nK = lists.softmax((e_n1E * asked_nKE).sum(2))
            summed_BKE = lists.sum((share_nK[:, :, None] * e_n1E).flatten(1)).view(asked_BKE.shape)
        return summed_BKE + lists.is_empty_B1[:, :, None] * self.empty_HE[place]


def _square(v: torch.Tensor) -> torch.Tensor:
    """Return V V^T, of one matrix or of many."""
    return v @ v.mT


class Mutual(nn.Module):
    """From b_p and the branches of all domains to b'_p."""

    def __init__(self, temperature: float, width: int, build: Build) -> None:
        super().__init__()
        self.temperature = temperature
        self.gate = Dense(name="saml.gate", width=width).build(2 * width, build)

    def forward(self, own_BM: torch.Tensor, all_PBM: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, M) and (P, B, M) to (B, M)."""
        routing = context.known_routing
        unit_BM, unit_PBM = (functional.normalize(x, dim=-1, eps=COSINE_EPS) for x in (own_BM, all_PBM))
        cosine_BP = (unit_BM * unit_PBM).sum(2).T
        place_B1 = (routing.present_G - 1).index_select(0, routing.index_B)[:, None]
        weight_BP = (cosine_BP / self.temperature).scatter(1, place_B1, float("-inf")).softmax(1)
        others_BM = mixed(weight_BP, all_PBM)
        gate_BM = torch.sigmoid(self.gate(torch.cat([own_BM, others_BM], dim=1), context))
        return gate_BM * own_BM + (1.0 - gate_BM) * others_BM
