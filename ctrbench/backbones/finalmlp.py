"""FinalMLP: two towers that read the features through separate gates, and a bilinear fusion of their outputs.

Paper: Mao et al., FinalMLP, AAAI 2023
Year: 2023

    h_i = 2 σ(MLP_i(x_i)) ⊙ z,   o_i = tower_i(h_i),   i = 1, 2
    s = b + <w_1, o_1> + <w_2, o_2> + Σ_h o_{1,h}^T W_h o_{2,h},   o_{i,h}: part h of o_i

x_1 and x_2 are the fields of one role each, user and item by default. Where the data have no such field, or the role is
`none`, x_i is a learned vector, as the paper allows (spec: finalmlp-5.9).

Plan: stream 1 is the tower, which methods rewrite, with its gate at the input; stream 2 is an interaction of the same
widths; the head is the fusion and a dense layer.

Choices: the gates have one hidden layer of ReLU. Both streams have the same widths, and differ in initial weights and
gates; the paper tunes their widths separately. The fusion passes [o_2 ; o_1 ; the bilinear sum] to the dense head,
whose weight on the sum only rescales the W_h, so the model represents the same functions as the paper's and methods
find a head to rewrite. A method that replaces the whole head also replaces the fusion. The gate of stream 1 assumes a
tower of dense stages only; stream 2 reads the embeddings, scaled by a method's gate on them if there is one.

Not implemented: dropout and batch normalization.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import nn

from ctrbench.extend import (
    Backbone,
    Build,
    Chain,
    Context,
    Dense,
    Field,
    Plan,
    Schema,
    SettingError,
    Stage,
    StageModule,
    check_layout,
    model_validator,
    start_weight,
)

# Shapes in names: B rows, N inputs, M outputs, H heads, A part of a stream.

Role = Literal["user", "item", "context", "shop", "ad", "query", "other"]


class FinalMlp(Backbone):
    """Two gated streams and their fusion."""

    heads: int = Field(default=2, ge=1, le=256)
    """Parts into which the fusion splits both outputs."""
    gating: bool = True
    """Whether the streams read the features through gates."""
    gate_hidden: int = Field(default=64, ge=1, le=65_536)
    """Width of the gates' hidden layer."""
    first_role: Role | None = "user"
    """Role of the fields that the gate of stream 1 reads; none: a learned vector."""
    second_role: Role | None = "item"
    """Role of the fields that the gate of stream 2 reads; none: a learned vector."""

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if self.hidden[-1] % self.heads:
            raise ValueError("heads must divide the last hidden width")
        return self

    def idle(self) -> Iterator[str]:
        """Yield the gate settings if `gating` is off, since they then have no effect."""
        yield from super().idle()
        if not self.gating:
            yield from ("gate_hidden", "first_role", "second_role")

    def plan(self) -> Plan:
        """Return both streams, fusion and head."""
        tower = tuple(replace(dense, name=f"second.{dense.name}") for dense in self.tower())
        fusion = BilinearFusion(name="fusion", width=self.hidden[-1], heads=self.heads)
        return Plan(
            at_input=(self._feature_gate("gate1", self.first_role),) if self.gating else (),
            interactions=(Branch(name="second", stages=(*self._second_input(), *tower)),),
            tower=self.tower(),
            head=(fusion, *self.output()),
        )

    def _second_input(self) -> tuple[Stage, ...]:
        if not self.gating:
            return ()
        return AsEmbedded(name="second.input"), self._feature_gate("gate2", self.second_role)

    def _feature_gate(self, name: str, role: Role | None) -> FeatureGate:
        return FeatureGate(name=name, role=role, hidden=self.gate_hidden)


@dataclass(frozen=True, kw_only=True)
class FeatureGate(Stage):
    """2 σ(MLP(x_s)) ⊙ z, FinalMLP's feature selection, where x_s are the fields of a role.

    Without a role, or if no field has it, x_s is a learned vector, the same for all rows.
    """

    role: str | None
    hidden: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; the MLP has one ReLU layer, and weights start as in a dense stage."""
        return FeatureGateModule(self, num_inputs, build)


class FeatureGateModule(StageModule):
    """Computes `FeatureGate`."""

    columns: torch.Tensor
    learned: nn.Parameter | None

    def __init__(self, stage: FeatureGate, num_inputs: int, build: Build) -> None:
        super().__init__()
        check_layout(stage.name, num_inputs, build.schema)
        self.num_outputs = num_inputs
        columns = _columns_of_role(stage.role, build.schema)
        self.register_buffer("columns", columns, persistent=False)
        start = torch.empty(1, build.schema.embedding_size)
        start.normal_(std=build.embedding_std, generator=build.generator(f"{stage.name}.learned"))
        self.register_parameter("learned", None if len(columns) else nn.Parameter(start))
        hidden = Dense(name=f"{stage.name}.hidden", width=stage.hidden, activation="relu")
        output = Dense(name=f"{stage.name}.output", width=num_inputs)
        self.mlp = Chain((hidden, output), len(columns) or start.shape[1], build)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        inputs = x_BN.index_select(1, self.columns) if self.learned is None else self.learned
        gate: torch.Tensor = self.mlp(inputs, context)
        return x_BN * (2.0 * torch.sigmoid(gate))


@dataclass(frozen=True, kw_only=True)
class AsEmbedded(Stage):
    """The embeddings that the network receives, without the changes of the backbone's own stage at the input."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module."""
        return AsEmbeddedModule(build.schema.num_inputs)


class AsEmbeddedModule(StageModule):
    """Computes `AsEmbedded`."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, width of z)."""
        return context.embeddings_BN


def _columns_of_role(role: str | None, schema: Schema) -> torch.Tensor:
    """Return the columns of the fields of a role in z."""
    has_role = {field.name for field in schema.fields if role is not None and field.role == role}
    ranges = [
        torch.arange(columns.start, columns.stop)
        for name, columns in schema.slices.items()
        if name in has_role
    ]
    return torch.cat(ranges) if ranges else torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Branch(Stage):
    """A sequence of stages as one stage."""

    stages: tuple[Stage, ...]

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module from those of the stages."""
        return BranchModule(self, num_inputs, build)


class BranchModule(StageModule):
    """Computes `Branch`."""

    def __init__(self, stage: Branch, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.stages = Chain(stage.stages, num_inputs, build)
        self.num_outputs = self.stages.num_outputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        output_BM: torch.Tensor = self.stages(x_BN, context)
        return output_BM


@dataclass(frozen=True, kw_only=True)
class BilinearFusion(Stage):
    """[x ; Σ_h u_h^T W_h v_h], where u are the first `width` inputs and v the others, both cut into `heads` parts."""

    width: int
    heads: int

    @property
    def num_parts(self) -> int:
        """The number of heads."""
        return self.heads

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; W_h starts Xavier uniform."""
        return BilinearFusionModule(self, num_inputs, build)


class BilinearFusionModule(StageModule):
    """Computes `BilinearFusion`."""

    def __init__(self, stage: BilinearFusion, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.width, self.num_outputs = stage.width, num_inputs + 1
        left, right = (width // stage.heads for width in (stage.width, num_inputs - stage.width))
        if (left * stage.heads, right * stage.heads) != (stage.width, num_inputs - stage.width):
            raise SettingError(
                "the heads must divide the widths of both streams",
                value=f"widths {stage.width} and {num_inputs - stage.width}, {stage.heads} heads",
                remedy="choose heads that divide both",
            )
        labels = (f"{stage.name}.{head}" for head in range(stage.heads))
        starts = [start_weight(left, right, None, build.generator(label)) for label in labels]
        self.weight = nn.Parameter(torch.stack(starts))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N + 1)."""
        shape, parts = (len(x_BN), len(self.weight), -1), (x_BN[:, : self.width], x_BN[:, self.width :])
        left_HBA, right_HBA = (part.reshape(shape).transpose(0, 1) for part in parts)
        term_B = (torch.bmm(left_HBA, self.weight) * right_HBA).sum((0, 2))
        return torch.cat([x_BN, term_B[:, None]], dim=1)
