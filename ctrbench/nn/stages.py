"""Stages and parts that backbones and several methods share; the dense layer itself stands with the plan.

What a single method needs stands in that method's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ctrbench.nn.embed import RowTable
from ctrbench.nn.plan import Build, Stage, StageModule

if TYPE_CHECKING:
    from ctrbench.nn.model import Context


def domain_table(num_indicators: int, start: torch.Tensor) -> RowTable:
    """Make per-domain parameters that all start alike: rows 0..num_indicators of the shape of `start`.

    Row 0, the unseen domain's, is never trained and so stays what it is at the start.
    """
    rows = start.unsqueeze(0).expand(num_indicators + 1, *start.shape).clone()
    return RowTable(rows, "domain")


@dataclass(frozen=True, kw_only=True)
class Cross(Stage):
    """DCNv2's cross network, x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l; with `rank`, W_l = U_l V_l^T.

    Wang et al., DCN V2, WWW 2021 (METHODS 5). The bias stands inside the Hadamard product.
    """

    layers: int
    rank: int | None = None

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; Xavier normal kernels, zero biases."""
        return CrossModule(self, num_inputs, build)


class CrossModule(StageModule):
    """Computes `Cross`; the width stays what it is."""

    def __init__(self, stage: Cross, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        shapes = [(num_inputs, num_inputs)]
        if stage.rank is not None:
            shapes = [(num_inputs, stage.rank), (stage.rank, num_inputs)]
        self.kernels = nn.ModuleList()
        for layer in range(stage.layers):
            factors = nn.ParameterList()
            for place, shape in enumerate(shapes):
                weight = torch.empty(shape)
                generator = build.generator(f"{stage.name}.{layer}.{place}")
                nn.init.xavier_normal_(weight, generator=generator)
                factors.append(nn.Parameter(weight))
            self.kernels.append(factors)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(num_inputs)) for _ in range(stage.layers))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        x0_BN = x_BN
        for factors, bias in zip(self.kernels, self.biases, strict=True):
            projected = x_BN
            for weight in factors:  # type: ignore[attr-defined]
                projected = projected @ weight
            x_BN = torch.addcmul(x_BN, x0_BN, projected + bias)
        return x_BN
