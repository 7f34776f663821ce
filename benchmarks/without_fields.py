"""Plain without some fields: their embeddings are zero, in training and in scoring.

Paper: none, a reference that shows whether ids of few rows help or harm
Year: none
Uses: none
Parameters per domain: none

Plan: a stage behind the embeddings sets the columns of the fields to zero; all else stays. For backbones without
first-order weights, such as dnn, this equals a dataset without the fields, except for the widths of the first layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ctrbench.extend import Build, Context, Field, Method, Plan, Stage, StageModule


@dataclass(frozen=True, kw_only=True)
class ZeroFields(Stage):
    """z with zeros in the columns of some fields."""

    fields: tuple[str, ...]

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module."""
        return ZeroFieldsModule(self, num_inputs, build)


class ZeroFieldsModule(StageModule):
    """Computes `ZeroFields`."""

    def __init__(self, stage: ZeroFields, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        mask_N = torch.ones(num_inputs)
        for name in stage.fields:
            mask_N[build.schema.slices[name]] = 0.0
        self.register_buffer("mask_N", mask_N, persistent=False)
        self.mask_N: torch.Tensor

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        return x_BN * self.mask_N


class WithoutFields(Method):
    """The plan without the embeddings of some fields."""

    fields: str = Field(default="user_id", min_length=1)
    """Names of the fields, joined by `+`."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the stage behind the embeddings."""
        stage = ZeroFields(name="without_fields", fields=tuple(self.fields.split("+")))
        return plan.with_input(stage)
