"""PLE: experts of each domain beside shared experts, mixed by the domain's gate, in levels.

Paper: Tang et al., Progressive Layered Extraction (PLE), RecSys 2020
Year: 2020
Uses: the indicator p and the tower's input
Parameters per domain: the specific experts, one gate, one tower and one head

x_p is the stream of domain p and x_s the shared one; both start as the tower's input. A level has n_p specific experts
per domain, which read x_p, and n_s shared experts, which read x_s (spec: ple-7.6):

    x_p <- Σ_k softmax(x_p W_p)_k f_k        over the experts of p and the shared ones
    x_s <- Σ_k softmax(x_s W_s)_k f_k        over all experts; not at the last level
    s = head_p(tower_p(x_p)), or head_p([interactions ; tower_p(x_p)]) in a parallel plan

Domains are the tasks. At the last level a row runs through the experts of its own domain and the shared ones only. At
earlier levels the shared gate reads the experts of all domains, so every row runs through all of them.

Plan: the tower becomes the inner part of one stage; the head becomes one per domain.

Choices: gates have no bias and start at zero, all experts alike. Domains start alike in parameters that only their own
rows reach. A row of an unseen domain uses experts, gate, tower and head of the largest domain (spec: conventions-0.4).

Deviations: experts are as wide as the backbone's tower (spec: comparison-11.3); the study has 256-128, which
`expert=256-128` gives.

Limits: with more than one level, more domains than `max_domains` are refused, and experts and gates of earlier levels
get gradients of absent domains too (an exemption of rule 3 in spec: conventions-0.5).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
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
    DomainDense,
    Field,
    Method,
    Plan,
    Stage,
    StageModule,
    TowerBank,
    dense_stages,
    domain_table,
    refuse_many_domains,
    select_own,
    weighted_sum,
    with_prefix,
)

Size = Annotated[int, Field(ge=1, le=65_536)]


class Ple(Method):
    """Specific and shared experts in levels, and a gate, a tower and a head per domain."""

    indexed_by = "indicator"

    levels: Annotated[int, Choices(1, 2)] = Field(default=1, ge=1, le=64)
    """Number of levels of experts."""
    specific: Annotated[int, Choices(1, 2, 4)] = Field(default=1, ge=1, le=256)
    """n_p, experts per domain at each level."""
    shared: Annotated[int, Choices(1, 2, 4)] = Field(default=2, ge=1, le=256)
    """n_s, shared experts at each level."""
    expert: tuple[Size, ...] | None = Field(default=None, min_length=1, max_length=64)
    """Widths of an expert's layers; none: those of the backbone's tower."""
    tower: Annotated[tuple[Size, ...], Choices("32", "64", "128")] = Field(
        default=(64,), min_length=1, max_length=64
    )
    """Widths of a domain's tower, between the last level and the head."""
    max_domains: int = Field(default=32, ge=1, le=65_536)
    """Largest number of domains with more than one level; every row runs through all experts of earlier levels."""

    def idle(self) -> tuple[str, ...]:
        """Return `max_domains` for one level, at which a row meets its own domain's experts only."""
        return ("max_domains",) if self.levels == 1 else ()

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with experts instead of its tower and one head per domain."""
        return plan.wrap_tower(self._extraction_stage).map_dense(DomainDense.like)

    def _extraction_stage(self, stages: tuple[Stage, ...]) -> Extraction:
        dense = dense_stages(stages)
        widths = self.expert or tuple(stage.width for stage in dense)
        expert, tower = (
            tuple(replace(dense[0], name=f"{part}{i}", width=width) for i, width in enumerate(sizes))
            for part, sizes in (("expert", widths), ("tower", self.tower))
        )
        return Extraction(name="ple", settings=self, expert=expert, tower=tower)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower has other stages than dense ones."""
        if plan.has_dense_tower:
            return None
        return "experts replace a tower of dense layers, and this plan has none"


@dataclass(frozen=True, kw_only=True)
class Extraction(Stage):
    """All levels, followed by the domains' towers."""

    settings: Ple
    expert: tuple[Dense, ...]
    tower: tuple[Dense, ...]

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; raise `SettingError` for too many domains with more than one level."""
        if self.settings.levels > 1:
            refuse_many_domains(build.schema, self.settings.max_domains)
        return ExtractionModule(self, num_inputs, build)


class ExtractionModule(StageModule):
    """Computes `Extraction`."""

    def __init__(self, stage: Extraction, num_inputs: int, build: Build) -> None:
        super().__init__()
        last = stage.settings.levels - 1
        self.earlier = nn.ModuleList()
        for level in range(last):
            level_class = LastButOne if level == last - 1 else Earlier
            self.earlier.append(level_class(stage, f"ple{level}", num_inputs, build))
            num_inputs = stage.expert[-1].width
        self.last = Last(stage, f"ple{last}", num_inputs, build)
        self.tower = _domain_tower(stage.tower, "ple", stage.expert[-1].width, build)
        self.num_outputs = self.tower.num_outputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        own, shared_BN = x_BN, x_BN
        for level in self.earlier:
            own, shared_BN = level(own, shared_BN, context)
        tower_BM: torch.Tensor = self.tower(self.last(own, shared_BN, context), context)
        return tower_BM


def _domain_tower(tower: tuple[Dense, ...], prefix: str, num_inputs: int, build: Build) -> Chain:
    """Build one tower per domain."""
    return Chain(tuple(DomainDense.like(dense) for dense in with_prefix(tower, prefix)), num_inputs, build)


class OwnGate(nn.Module):
    """softmax(x W_p), with W_p of the row's domain, which only its rows train."""

    def __init__(self, num_inputs: int, num_outputs: int, build: Build) -> None:
        super().__init__()
        self.domain = domain_table(build.schema.num_indicators, torch.zeros(num_inputs, num_outputs))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, K)."""
        routing = context.seen_routing
        return routing.linear(x_BN, context.read(self.domain, routing)).softmax(1)


class EveryGate(nn.Module, Capabilities):
    """softmax(x_p W_p) of all P domains' streams; every row trains all W_p."""

    of_domains = True

    def __init__(self, num_inputs: int, num_outputs: int, build: Build) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(build.schema.num_indicators, num_inputs, num_outputs))

    def forward(self, own: torch.Tensor) -> torch.Tensor:
        """(P, B, N), or (B, N) where all streams are x, to (P, B, K)."""
        return (own @ self.weight).softmax(2)


class Last(nn.Module):
    """The last level: a row runs through its own domain's experts and the shared ones."""

    def __init__(self, stage: Extraction, name: str, num_inputs: int, build: Build) -> None:
        super().__init__()
        settings = stage.settings
        self.specific = nn.ModuleList(
            _domain_tower(stage.expert, f"{name}.specific{i}", num_inputs, build)
            for i in range(settings.specific)
        )
        self.shared = TowerBank(
            with_prefix(stage.expert, f"{name}.shared"), settings.shared, num_inputs, build
        )
        self.gate = OwnGate(num_inputs, settings.specific + settings.shared, build)

    def forward(self, own_BN: torch.Tensor, shared_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Both streams, (B, N), to the row's own stream, (B, M)."""
        specific_KBM = torch.stack([expert(own_BN, context) for expert in self.specific])
        experts_KBM = torch.cat([specific_KBM, self.shared(shared_BN, context)])
        return weighted_sum(self.gate(own_BN, context), experts_KBM)


class Level(nn.Module, ABC):
    """A level before the last; every row runs through the experts of all P domains."""

    def __init__(self, stage: Extraction, name: str, num_inputs: int, build: Build) -> None:
        super().__init__()
        settings = stage.settings
        self.num_specific, self.num_own = settings.specific, settings.specific + settings.shared
        num_all = build.schema.num_indicators * settings.specific
        self.specific = TowerBank(with_prefix(stage.expert, f"{name}.specific"), num_all, num_inputs, build)
        self.specific.of_domains = True
        self.shared = TowerBank(
            with_prefix(stage.expert, f"{name}.shared"), settings.shared, num_inputs, build
        )
        self.shared_gate = nn.Parameter(torch.zeros(num_inputs, num_all + settings.shared))

    def forward(
        self, own: torch.Tensor, shared_BN: torch.Tensor, context: Context
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map the own streams, (P, B, N) or (B, N) where all are x, and the shared stream to the next level's."""
        inputs = own if own.dim() == 2 else own.repeat_interleave(self.num_specific, dim=0)
        specific_KBM, shared_KBM = self.specific(inputs, context), self.shared(shared_BN, context)
        weight_BK = (shared_BN @ self.shared_gate).softmax(1)
        shared_BM = weighted_sum(weight_BK, torch.cat([specific_KBM, shared_KBM]))
        specific_PKBM = specific_KBM.view(-1, self.num_specific, *specific_KBM.shape[1:])
        return self.mix(own, specific_PKBM, shared_KBM, context), shared_BM

    @abstractmethod
    def mix(
        self, own: torch.Tensor, specific_PKBM: torch.Tensor, shared_KBM: torch.Tensor, context: Context
    ) -> torch.Tensor:
        """Return the own streams that the next level reads."""


class Earlier(Level):
    """A level before another `Level`, which reads the streams of all domains."""

    def __init__(self, stage: Extraction, name: str, num_inputs: int, build: Build) -> None:
        super().__init__(stage, name, num_inputs, build)
        self.gate = EveryGate(num_inputs, self.num_own, build)

    def mix(
        self, own: torch.Tensor, specific_PKBM: torch.Tensor, shared_KBM: torch.Tensor, context: Context
    ) -> torch.Tensor:
        """Return the stream of every domain, (P, B, M)."""
        pairs = zip(self.gate(own), specific_PKBM, strict=True)
        return torch.stack(
            [weighted_sum(weight_BK, torch.cat([own_KBM, shared_KBM])) for weight_BK, own_KBM in pairs]
        )


class LastButOne(Level):
    """The level before the last one, which reads the stream of a row's own domain only."""

    def __init__(self, stage: Extraction, name: str, num_inputs: int, build: Build) -> None:
        super().__init__(stage, name, num_inputs, build)
        self.gate = OwnGate(num_inputs, self.num_own, build)

    def mix(
        self, own: torch.Tensor, specific_PKBM: torch.Tensor, shared_KBM: torch.Tensor, context: Context
    ) -> torch.Tensor:
        """Return the stream of the row's domain, (B, M)."""
        routing = context.seen_routing
        own_BN = own if own.dim() == 2 else select_own(own, routing)
        own_KBM = torch.stack([select_own(expert_PBM, routing) for expert_PBM in specific_PKBM.unbind(1)])
        return weighted_sum(self.gate(own_BN, context), torch.cat([own_KBM, shared_KBM]))
