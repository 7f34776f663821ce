"""The network that a plan describes: its stages as modules, from embedded rows to logits."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.plan import Plan
from ctrbench.nn.stages import Chain

Precision = Literal["float32", "bf16"]


class Network(nn.Module):
    """A plan's stages, from a `Context` to logits of shape (B,)."""

    precision: Precision = "float32"
    """`bf16`: matrix products of interactions and tower in bfloat16; weights, head and logit in float32."""

    def __init__(self, plan: Plan, build: Build) -> None:
        super().__init__()
        width = build.schema.num_inputs
        self.is_parallel = plan.join == "parallel"
        self.at_input = Chain(plan.at_input, width, build)
        self.interactions = nn.ModuleList(
            stage.build(self.at_input.num_outputs, build) for stage in plan.interactions
        )
        crossed = sum(_num_outputs(module) for module in self.interactions)
        is_fed = self.is_parallel or not crossed
        self.tower = Chain(plan.tower, self.at_input.num_outputs if is_fed else crossed, build)
        deep = self.tower.num_outputs
        self.head = Chain(plan.head, deep + crossed if self.is_parallel else deep, build)
        self.logits = nn.ModuleList(stage.build(width, build) for stage in plan.logits)
        if any(_num_outputs(module) != 1 for module in (self.head, *self.logits)):
            raise ValueError("the head and each of the logits of a plan must end in width 1")

    @property
    def networks(self) -> tuple[Network, ...]:
        """The network itself, which all rows share; see `SeparateNetworks`."""
        return (self,)

    @property
    def sections(self) -> dict[str, nn.ModuleList]:
        """The modules of all stages, by section as in `Plan.sections`."""
        return {
            "at_input": self.at_input,
            "interactions": self.interactions,
            "tower": self.tower,
            "head": self.head,
            "logits": self.logits,
        }

    def start_at(self, rate: float) -> None:
        """Set the output's bias so that a zero input has that probability."""
        # Where positives are rare, this saves the first few thousand steps (spec: conventions-0.3).
        # A head without an output bias is a failure of the contract's rule "base rate".
        last = self.head.last
        if last is not None and last.output_bias is not None:
            nn.init.constant_(last.output_bias, math.log(rate / (1.0 - rate)))

    def forward(self, context: Context) -> torch.Tensor:
        """Return logits of shape (B,), float32."""
        _add_row_losses(context)
        if self.precision == "float32":
            joined = self._join_interactions_and_tower(context)
        else:
            with torch.autocast(context.z_BN.device.type, torch.bfloat16):
                joined = self._join_interactions_and_tower(context).float()
        # In float32: a logit in bf16 has eight bits, which would make hundreds of scores equal.
        logit_B1: torch.Tensor = self.head(joined, context)
        for module in self.logits:
            logit_B1 = logit_B1 + module(context.z_BN, context)
        return logit_B1[:, 0]

    def _join_interactions_and_tower(self, context: Context) -> torch.Tensor:
        x_BN = self.at_input(context.z_BN, context)
        crossed = [module(x_BN, context) for module in self.interactions]
        if self.is_parallel:
            return torch.cat([*crossed, self.tower(x_BN, context)], dim=1)
        joined: torch.Tensor = self.tower(torch.cat(crossed, dim=1) if crossed else x_BN, context)
        return joined


def _add_row_losses(context: Context) -> None:
    for loss in context.row_losses:
        mean = loss.mean()
        if mean is not None:
            context.penalties.append(loss.weight * mean)
            context.logs[loss.name] = mean.detach()


def _num_outputs(module: nn.Module) -> int:
    width = module.num_outputs
    assert isinstance(width, int)
    return width
