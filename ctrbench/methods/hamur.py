"""HAMUR: towers of the domains with adapter cells whose core matrix is generated from each row.

Paper: Li et al., HAMUR: Hyper Adapter for Multi-Domain Recommendation, CIKM 2023
Year: 2023
Uses: all embeddings of the row (cells) and the indicator p (towers and normalization)
Parameters per domain: with `tower=own` one tower and one head; γ_p and β_p of the cells, with their moments

A shared hyper-network generates H(z), R x R, from the row's embeddings z. After each of the last `cells` hidden layers
a cell adds to the layer's output h (spec: hamur-7.9):

    h ← h + PN(a W_2)        a = σ(h W_1 + b_1)        W_1 = U_1 H V_1        W_2 = U_2 H V_2

The factors are multiplied in turn, so the only matrix per row is H. A row runs through the tower of its own domain
only; with `tower=shared` all domains share the backbone's.

Plan: the tower becomes the inner part of one stage; with `tower=own` dense stages of tower and head become one per
domain.

Choices: PN stands inside the residual, on the cell's output alone. All factors start with Xavier's range, the
hyper-network as dense layers do. One H serves all cells. W_2 has no bias, which normalization would remove. Heads
belong to the domains, as towers do. R and the bottleneck may exceed a layer's width, as published. A row of an unseen
domain uses tower and head of the largest domain (spec: conventions-0.4) and PN's global moments.

Deviations: γ and β of PN start at zero, so a cell adds exactly zero and the model starts as its backbone. The
specification starts V_2 at zero and PN with γ = 1. PN then divides the first update of V_2 by √ε, a factor of 316:
after one step of Adam at 1e-3 the standard deviation of logits was 1.10 and the test log-loss 0.74; after three steps
the log-loss was 1.08 and after thirty still 0.71. With the start used here these figures are 0.13, 0.73, 0.68 and 0.56
(20 synthetic fields, three domains, batches of 256).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from ctrbench.extend import (
    Build,
    Choices,
    Context,
    Dense,
    DomainDense,
    Field,
    Method,
    PartitionedNorm,
    Plan,
    Stage,
    StageModule,
    dense_stages,
    start_weight,
)


class Hamur(Method):
    """Adapter cells in one tower per domain, or in a shared tower."""

    indexed_by = "indicator"

    tower: Annotated[Literal["own", "shared"], Choices("own", "shared")] = "own"
    """Whether each domain has its own tower and head; `shared` suits many domains."""
    cells: Annotated[int, Choices(1, 2, 3)] = Field(default=2, ge=1, le=256)
    """Number of last hidden layers that a cell follows; at most all of them."""
    bottleneck: Annotated[int, Choices(16, 32, 64)] = Field(default=32, ge=1, le=65_536)
    """Width between down and up projection."""
    rank: Annotated[int, Choices(8, 16, 35)] = Field(default=35, ge=1, le=65_536)
    """R; the hyper-network outputs R² numbers per row."""
    hidden: int = Field(default=64, ge=1, le=65_536)
    """Width of the hyper-network's hidden layer."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with an adapted tower."""
        plan = plan.map_dense(DomainDense.like) if self.tower == "own" else plan
        return plan.wrap_tower(lambda tower: AdaptedTower(name="hamur", tower=tower, settings=self))

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without hidden layers."""
        has_hidden = dense_stages(plan.tower)
        return None if has_hidden else "cells follow hidden dense layers, and this plan has none"

    @property
    def starts_as_backbone(self) -> float:
        """Return 1e-5: all towers start as the backbone's, and cells add zero."""
        return 1e-5


@dataclass(frozen=True, kw_only=True)
class AdaptedTower(Stage):
    """A tower with cells after its last hidden layers."""

    tower: tuple[Stage, ...]
    settings: Hamur

    @property
    def cell_indices(self) -> tuple[int, ...]:
        """Indices of the tower's stages that a cell follows."""
        dense = [i for i, stage in enumerate(self.tower) if stage.as_dense() is not None]
        return tuple(dense[-self.settings.cells :])

    def build(self, num_inputs: int, build: Build) -> AdaptedTowerModule:
        """Build the module; cells add zero at the start."""
        return AdaptedTowerModule(self, num_inputs, build)


class AdaptedTowerModule(StageModule):
    """Computes `AdaptedTower`; H is generated once for all cells."""

    def __init__(self, stage: AdaptedTower, num_inputs: int, build: Build) -> None:
        super().__init__()
        settings, cell_indices = stage.settings, stage.cell_indices
        hidden = Dense(name=f"{stage.name}.hidden", width=settings.hidden, activation="relu")
        output = Dense(name=f"{stage.name}.core", width=settings.rank**2)
        self.hyper = nn.ModuleList(
            [hidden.build(build.schema.num_inputs, build), output.build(hidden.width, build)]
        )
        self.stages, self.cells = nn.ModuleList(), nn.ModuleDict()
        for i, inner in enumerate(stage.tower):
            module = inner.build(num_inputs, build)
            num_inputs = module.num_outputs
            self.stages.append(module)
            if i in cell_indices:
                self.cells[str(i)] = Cell(settings, num_inputs, build, f"{stage.name}.{inner.name}")
        self.num_outputs = num_inputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        core_BRR = context.z_BN
        for layer in self.hyper:
            core_BRR = layer(core_BRR, context)
        for i, stage in enumerate(self.stages):
            x_BN = stage(x_BN, context)
            if str(i) in self.cells:
                x_BN = self.cells[str(i)](x_BN, core_BRR, context)
        return x_BN


class Cell(nn.Module):
    """h + PN(σ(h U_1 H V_1 + b_1) U_2 H V_2)."""

    def __init__(self, settings: Hamur, num_inputs: int, build: Build, label: str) -> None:
        super().__init__()
        self.rank, inner = settings.rank, settings.bottleneck

        def factor(name: str, num_rows: int, num_columns: int) -> nn.Parameter:
            return nn.Parameter(start_weight(num_rows, num_columns, None, build.generator(f"{label}.{name}")))

        self.down_left = factor("down_left", num_inputs, self.rank)
        self.down_right = factor("down_right", self.rank, inner)
        self.bias = nn.Parameter(torch.zeros(inner))
        self.up_left = factor("up_left", inner, self.rank)
        self.up_right = factor("up_right", self.rank, num_inputs)
        self.norm = PartitionedNorm(name=f"{label}.norm", scale=0.0).build(num_inputs, build)

    def forward(self, x_BN: torch.Tensor, core_BRR: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N); `core_BRR` is flat, (B, R²)."""
        down_BR = self._multiply_by_core(x_BN @ self.down_left, core_BRR)
        inner_BM = torch.sigmoid(torch.addmm(self.bias, down_BR, self.down_right))
        up_BN = self._multiply_by_core(inner_BM @ self.up_left, core_BRR) @ self.up_right
        # Moments need more precision than products in bfloat16 have.
        normed_BN: torch.Tensor = self.norm(up_BN.float(), context)
        return x_BN + normed_BN

    def _multiply_by_core(self, a_BR: torch.Tensor, core_BRR: torch.Tensor) -> torch.Tensor:
        return torch.bmm(a_BR[:, None], core_BRR.view(-1, self.rank, self.rank))[:, 0]
