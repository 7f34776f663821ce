"""BiasNet: a shallow side tower of the domain features adds a logit to the main network's.

Paper: none; the definition of this project, after the shallow tower of position bias
Year: none
Uses: e_d, in the side tower only
Parameters per domain: none

    s = s_main(z) + s_bias(e_d)        s_bias(e_d) = ReLU(e_d A + a) w + c

The added logit is the same for all rows of a known domain (spec: biasnet-7.1). BiasNet can therefore learn the click
level of a domain and cannot change the ranking within it. A method that does not beat it has learned levels only.

Plan: adds a logit.

Choices: w and c start at zero, so BiasNet starts as the backbone. e_d stays among the inputs of the main network, as in
every method.

Deviations: the auxiliary network of STAR, the setting `aux=domain` of every method, also reads a row emb(p) per domain;
here the input is e_d alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from ctrbench.extend import Build, Choices, Context, Dense, Field, Method, Plan, Stage, StageModule


class BiasNet(Method):
    """A small network of e_d whose logit is added."""

    hidden: Annotated[int, Choices(16, 32, 64)] = Field(default=32, ge=1, le=65_536)
    """Width of the side tower's hidden layer."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with one more logit."""
        return plan.add_logit(BiasTower(name="bias", hidden=self.hidden))

    @property
    def starts_as_backbone(self) -> float:
        """Return 0.0: the side tower's initial logit is zero."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class BiasTower(Stage):
    """ReLU(e_d A + a) w + c; w and c start at zero."""

    hidden: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; its input is e_d, not the stage's input."""
        return BiasTowerModule(self, build)


class BiasTowerModule(StageModule):
    """Computes `BiasTower`."""

    num_outputs = 1

    def __init__(self, stage: BiasTower, build: Build) -> None:
        super().__init__()
        hidden = Dense(name=f"{stage.name}.hidden", width=stage.hidden, activation="relu")
        output = Dense(name=f"{stage.name}.output", width=1)
        self.hidden = hidden.build(build.schema.domain_width, build)
        self.output = output.build(stage.hidden, build)
        nn.init.zeros_(self.output.get_parameter("weight"))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, 1)."""
        logit_B1: torch.Tensor = self.output(self.hidden(context.domain_BE, context), context)
        return logit_B1
