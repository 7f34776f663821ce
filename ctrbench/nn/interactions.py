"""Feature interactions that several backbones share, and the view of the input vector as fields.

An interaction that reads fields takes inputs with the layout of z, so a stage at the input must keep z's width. All
interactions have second derivatives. Those of a single backbone are defined in its file.

Shapes in names: B rows, N inputs, F fields, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Chain, Stage, StageModule

FULL_RANK_INPUTS = 1024
"""Number of inputs up to which cross kernels have full rank by default."""


def check_layout(name: str, num_inputs: int, schema: Schema) -> None:
    """Raise `SettingError` if inputs do not have the width of z, for a stage that relies on z's layout."""
    if num_inputs != schema.num_inputs:
        raise SettingError(
            f"{name} reads the fields of the input vector, so its inputs must have the width of that vector",
            value=f"{num_inputs} inputs, not {schema.num_inputs}",
            remedy="a stage at the input must keep the width; put a stage that changes it before the tower",
        )


class FieldVectors(nn.Module):
    """One vector per field, (B, N) to (B, F, E); a plain number x_k is the field v_k x_k, with v_k learned."""

    numbers: nn.Parameter | None

    def __init__(self, name: str, num_inputs: int, build: Build) -> None:
        super().__init__()
        schema = build.schema
        check_layout(name, num_inputs, schema)
        self.size, num_numbers = schema.embedding_size, len(schema.numeric_fields)
        self.num_embedded = len(schema.single_fields) + len(schema.bag_fields)
        self.num_fields = self.num_embedded + num_numbers
        start = torch.empty(num_numbers, self.size)
        start.normal_(std=build.embedding_std, generator=build.generator(f"{name}.numbers"))
        self.register_parameter("numbers", nn.Parameter(start) if num_numbers else None)

    def forward(self, x_BN: torch.Tensor) -> torch.Tensor:
        """Return the fields in the order of z."""
        width = self.num_embedded * self.size
        embedded_BFE = x_BN[:, :width].reshape(len(x_BN), self.num_embedded, self.size)
        if self.numbers is None:
            return embedded_BFE
        return torch.cat([embedded_BFE, x_BN[:, width:, None] * self.numbers], dim=1)


@dataclass(frozen=True, kw_only=True)
class FirstOrder(Stage):
    """The linear logit: the sum of the weights of a row's ids, averaged in lists, and of w_k x_k per plain number.

    It is one of the `logits` of a plan with `first_order=True`.
    """

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; all weights start at zero."""
        return FirstOrderModule(self, num_inputs, build)


class FirstOrderModule(StageModule):
    """Computes `FirstOrder`; the weights of ids are stored with their embeddings."""

    num_outputs = 1
    weight: nn.Parameter | None

    def __init__(self, stage: FirstOrder, num_inputs: int, build: Build) -> None:
        super().__init__()
        check_layout(stage.name, num_inputs, build.schema)
        self.num_numbers = len(build.schema.numeric_fields)
        start = torch.zeros(self.num_numbers, 1)
        self.register_parameter("weight", nn.Parameter(start) if self.num_numbers else None)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, 1)."""
        weights_BF = context.first_order_BF
        if weights_BF is None:
            raise SettingError(
                "a plan with FirstOrder must have first-order weights",
                remedy="set first_order=True on the plan",
            )
        logit_B1 = weights_BF.sum(1, keepdim=True)
        return logit_B1 if self.weight is None else logit_B1 + x_BN[:, -self.num_numbers :] @ self.weight


@dataclass(frozen=True, kw_only=True)
class Cross(Stage):
    """DCNv2's cross network, x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l; with `rank`, W_l = U_l V_l^T.

    Wang et al., DCN V2, WWW 2021 (spec: dcnv2-5.1). The bias is inside the Hadamard product. Without `rank`, kernels
    have full rank up to 1,024 inputs, and a quarter of the inputs as rank above.
    """

    layers: int
    rank: int | None = None

    @property
    def num_matrices(self) -> int:
        """One matrix per layer, whose input is x_l."""
        return self.layers

    def before_matrices(self, stages: Sequence[Stage | None]) -> GatedCross:
        """Return the network with stages between x_l and W_l; x_0 and the residual x_l are not changed."""
        return GatedCross(name=self.name, cross=self, gates=tuple(stages))

    def build(self, num_inputs: int, build: Build) -> CrossModule:
        """Make the module; kernels start Xavier normal, biases at zero."""
        return CrossModule(self, num_inputs, build)


class CrossModule(StageModule):
    """Computes `Cross`; keeps the width."""

    def __init__(self, stage: Cross, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        rank = stage.rank or (num_inputs // 4 if num_inputs > FULL_RANK_INPUTS else None)
        shapes = [(num_inputs, rank), (rank, num_inputs)] if rank else [(num_inputs, num_inputs)]
        self.kernels = nn.ModuleList()
        for layer in range(stage.layers):
            factors = nn.ParameterList()
            for index, shape in enumerate(shapes):
                weight = torch.empty(shape)
                generator = build.generator(f"{stage.name}.{layer}.{index}")
                nn.init.xavier_normal_(weight, generator=generator)
                factors.append(nn.Parameter(weight))
            self.kernels.append(factors)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(num_inputs)) for _ in range(stage.layers))
        self.gates = nn.ModuleList()
        """Stages at the inputs of the matrices, one chain per layer; empty without any."""

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        x0_BN = x_BN
        for layer in range(len(self.kernels)):
            gated_BN = self.gates[layer](x_BN, context) if self.gates else x_BN
            x_BN = torch.addcmul(x_BN, x0_BN, self.product(layer, gated_BN))
        return x_BN

    def product(self, layer: int, x_BN: torch.Tensor) -> torch.Tensor:
        """Return W_l x + b_l."""
        factors = self.kernels[layer]
        assert isinstance(factors, nn.ParameterList)
        *weights, last = factors
        for weight in weights:
            x_BN = x_BN @ weight
        return torch.addmm(self.biases[layer], x_BN, last)


@dataclass(frozen=True, kw_only=True)
class GatedCross(Stage):
    """x_{l+1} = x_0 ⊙ (W_l g_l(x_l) + b_l) + x_l, a cross network with a stage g_l at the input of each matrix.

    A gate must keep the width.
    """

    cross: Cross
    gates: tuple[Stage | None, ...]
    """The stages g_l; None: the identity."""

    def build(self, num_inputs: int, build: Build) -> CrossModule:
        """Make the module; its kernels start as those of the cross network without gates."""
        module = self.cross.build(num_inputs, build)
        chains = ((gate,) if gate else () for gate in self.gates)
        module.gates = nn.ModuleList(Chain(chain, num_inputs, build) for chain in chains)
        return module
