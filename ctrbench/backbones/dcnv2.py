"""DCNv2: a cross network of explicit feature products beside or below the deep tower.

Paper: Wang et al., DCN V2, WWW 2021
Year: 2021

    x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l

`parallel` is a linear layer on [cross(z) ; tower(z)], `stacked` is tower(cross(z)) (spec: dcnv2-5.1). With `experts`
the cross layers are DCN-Mix's mixtures of low-rank experts; `diag_scale` adds a multiple of the identity to the
kernels.

Plan: the cross network as an interaction, tower and head.

Choices: neither paper publishes the structure used in the AdaSparse study; the default is parallel with three full-rank
layers. Each layer of DCN-Mix has its own gate and, unless `rank` is set, a rank of a quarter of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from ctrbench.extend import (
    Backbone,
    Build,
    Context,
    Cross,
    CrossModule,
    Field,
    Plan,
    Stage,
    StageModule,
    added_field,
    start_weight,
)

# Shapes in names: B rows, N inputs, H experts, R rank.


class Dcnv2(Backbone):
    """Cross network and tower."""

    layers: int = Field(default=3, ge=1, le=64)
    """Number of cross layers."""
    rank: int | None = Field(default=None, ge=1, le=65_536)
    """Rank of the cross kernels; none: full up to 1,024 inputs, a quarter of the inputs above and with experts."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the cross network stands beside the tower or below it."""
    experts: Annotated[int, Field(ge=2, le=256)] | None = added_field(None)
    """Low-rank experts per cross layer; none: one linear kernel."""
    diag_scale: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = added_field(0.0)
    """Multiple of the identity added to each kernel."""

    def idle(self) -> Iterator[str]:
        """Yield `diag_scale` where the cross layers have experts."""
        yield from super().idle()
        if self.experts:
            yield "diag_scale"

    def plan(self) -> Plan:
        """Return cross network, tower and head."""
        cross = self._cross()
        return Plan(interactions=(cross,), join=self.structure, tower=self.tower(), head=self.output())

    def _cross(self) -> Stage:
        if self.experts:
            return CrossMix(name="cross", layers=self.layers, rank=self.rank, experts=self.experts)
        if self.diag_scale:
            return ScaledCross(name="cross", layers=self.layers, rank=self.rank, diag_scale=self.diag_scale)
        return Cross(name="cross", layers=self.layers, rank=self.rank)


@dataclass(frozen=True, kw_only=True)
class ScaledCross(Stage):
    """A cross network of kernels W_l + s I, with s = `diag_scale` fixed and W_l as in `Cross`."""

    layers: int
    rank: int | None = None
    diag_scale: float

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; W_l starts as in the `Cross` of the same name."""
        cross = Cross(name=self.name, layers=self.layers, rank=self.rank)
        return ScaledCrossModule(cross, num_inputs, build, self.diag_scale)


class ScaledCrossModule(CrossModule):
    """Computes `ScaledCross`."""

    def __init__(self, stage: Cross, num_inputs: int, build: Build, diag_scale: float) -> None:
        super().__init__(stage, num_inputs, build)
        self.diag_scale = diag_scale

    def product(self, layer: int, x_BN: torch.Tensor) -> torch.Tensor:
        """Return W_l x + s x + b_l."""
        return torch.add(super().product(layer, x_BN), x_BN, alpha=self.diag_scale)


@dataclass(frozen=True, kw_only=True)
class CrossMix(Stage):
    """DCN-Mix: cross layers of low-rank experts that a gate mixes (spec: dcnv2-5.1).

        x_{l+1} = x_0 ⊙ (Σ_k G_k(x_l) U_k g(C_k g(V_k^T x_l)) + b_l) + x_l,   g = tanh

    G is a softmax over experts of a linear map of x_l, one per layer. The gates sum to one, so the bias, which the
    experts of a layer share, is outside the sum. Without `rank` it is a quarter of the inputs.
    """

    layers: int
    experts: int
    rank: int | None = None

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; U_k, C_k and V_k start Xavier normal, gates Xavier uniform, biases at zero."""
        return CrossMixModule(self, num_inputs, build)


class CrossMixModule(StageModule):
    """Computes `CrossMix`; one matrix per layer concatenates the V_k of all experts, another one their U_k."""

    def __init__(self, stage: CrossMix, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.experts = num_inputs, stage.experts
        self.rank = stage.rank or max(1, num_inputs // 4)
        shapes = {"down": (num_inputs, self.rank), "core": (self.rank,) * 2, "up": (self.rank, num_inputs)}
        self.layers = nn.ModuleList()
        for layer in range(stage.layers):
            label, experts = f"{stage.name}.{layer}", range(stage.experts)
            down, core, up = (
                [_xavier_normal(shape, build, f"{label}.{part}.{expert}") for expert in experts]
                for part, shape in shapes.items()
            )
            gate = start_weight(num_inputs, stage.experts, None, build.generator(f"{label}.gate"))
            parts = {"down": torch.cat(down, 1), "core": torch.stack(core), "up": torch.cat(up), "gate": gate}
            parts["bias"] = torch.zeros(num_inputs)
            self.layers.append(nn.ParameterDict({key: nn.Parameter(value) for key, value in parts.items()}))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        x0_BN = x_BN
        for part in self.layers:
            assert isinstance(part, nn.ParameterDict)
            gate_BH1 = torch.softmax(x_BN @ part["gate"], dim=1)[:, :, None]
            inner_BHR = torch.tanh(x_BN @ part["down"]).view(-1, self.experts, self.rank)
            core_BHR = torch.tanh(torch.bmm(inner_BHR.transpose(0, 1), part["core"])).transpose(0, 1)
            product_BN = torch.addmm(part["bias"], (gate_BH1 * core_BHR).flatten(1), part["up"])
            x_BN = torch.addcmul(x_BN, x0_BN, product_BN)
        return x_BN


def _xavier_normal(shape: tuple[int, ...], build: Build, label: str) -> torch.Tensor:
    weight = torch.empty(shape)
    nn.init.xavier_normal_(weight, generator=build.generator(label))
    return weight
