"""AutoInt: layers of multi-head self-attention over the fields, beside or below the deep tower.

Paper: Song et al., AutoInt, CIKM 2019
Year: 2019

Per head, over the fields e_1 … e_F of a row, with v_k x_k and a learned v_k for a numeric field (spec: autoint-5.7):

    α_mk = softmax_k <W_Q e_m, W_K e_k>,   e'_m = Σ_k α_mk W_V e_k
    e_m ← ReLU([e'_m of each head] + W_R e_m)

`parallel` is the paper's AutoInt+, a linear layer on [all e_m of the last layer ; tower(z)]; `stacked` is tower(all
e_m). The inner product is not scaled, as in equation 5 of the paper.

Plan: the attention layers as an interaction, tower and head.

Choices: heads have 8 numbers, not the paper's 32, so that a field keeps 16 numbers with two heads.

Not implemented: AutoInt without a tower, since methods rewrite dense stages; dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ctrbench.extend import (
    Backbone,
    Build,
    Context,
    Field,
    FieldVectors,
    Plan,
    Stage,
    StageModule,
    start_weight,
)

# Shapes in names: B rows, N inputs, F fields, H heads, A width of a head.


class AutoInt(Backbone):
    """Self-attention over fields, and tower."""

    layers: int = Field(default=3, ge=1, le=64)
    """Number of attention layers."""
    heads: int = Field(default=2, ge=1, le=256)
    """Heads per layer."""
    head_size: int = Field(default=8, ge=1, le=65_536)
    """Width of a head; a layer's output has heads x head_size numbers per field."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the attention stands beside the tower or below it."""

    def plan(self) -> Plan:
        """Return attention layers, tower and head."""
        attention = FieldAttention(
            name="attention", layers=self.layers, heads=self.heads, head_size=self.head_size
        )
        return Plan(interactions=(attention,), join=self.structure, tower=self.tower(), head=self.output())


@dataclass(frozen=True, kw_only=True)
class FieldAttention(Stage):
    """AutoInt's interacting layers: multi-head self-attention over fields, with residual and ReLU.

    A head computes for each field e_m of a row, over the fields e_k of the same row,

        α_mk = softmax_k <W_Q e_m, W_K e_k>,   e'_m = Σ_k α_mk W_V e_k

    and a layer e_m ← ReLU([e'_m of head 1 ; … ; of head H] + W_R e_m). The output is all fields of the last layer.
    """

    layers: int
    heads: int
    head_size: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; weights start Xavier uniform."""
        return FieldAttentionModule(self, num_inputs, build)


class FieldAttentionModule(StageModule):
    """Computes `FieldAttention`; a layer's weight concatenates W_Q, W_K, W_V and W_R, each head by head."""

    def __init__(self, stage: FieldAttention, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.heads, self.head_size = stage.heads, stage.head_size
        self.fields = FieldVectors(stage.name, num_inputs, build)
        width, num_numbers = self.fields.size, stage.heads * stage.head_size
        self.weights = nn.ParameterList()
        for layer in range(stage.layers):
            generators = (build.generator(f"{stage.name}.{layer}.{part}") for part in ("q", "k", "v", "r"))
            start = torch.cat(
                [start_weight(width, num_numbers, None, generator) for generator in generators], dim=1
            )
            self.weights.append(nn.Parameter(start))
            width = num_numbers
        self.num_outputs = self.fields.num_fields * num_numbers

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, fields times heads times their size)."""
        fields_BFE: torch.Tensor = self.fields(x_BN)
        for weight in self.weights:
            projected = (fields_BFE @ weight).view(*fields_BFE.shape[:2], 4, self.heads, self.head_size)
            query_BHFA, key_BHFA, value_BHFA, rest_BHFA = projected.permute(2, 0, 3, 1, 4)
            share_BHFF = torch.softmax(query_BHFA @ key_BHFA.mT, dim=-1)
            output_BHFA = torch.relu(share_BHFF @ value_BHFA + rest_BHFA)
            fields_BFE = output_BHFA.transpose(1, 2).flatten(2)
        return fields_BFE.flatten(1)
