"""BiasNet: a shallow side tower of the domain-aware features adds its logit to the main network's.

Paper: none; the definition of METHODS 7.1, after the shallow tower of position bias
Year: none
Conditions on: e_d, in the side tower alone
Grows with domains: nothing

METHODS 7.1. s = s_main(z) + s_bias(e_d), with s_bias a two-layer network: ReLU of `hidden` units, linear output.

It learns the click rates of domains and nothing else: what it adds is the same for all rows of a known domain, so it
cannot change how the rows of one domain are ranked. A method that does not beat it has learned levels only.

Readings: the output starts at zero, so BiasNet starts as the backbone; e_d stays among the main network's inputs, as
with every method. Departures: 7.1 calls it STAR's auxiliary network on domain features. That one, every method's
setting `aux=domain`, also has a row emb(p) for each domain, which grows with domains; here there is e_d alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ctrbench.extend import Build, Context, Dense, Field, Method, Plan, Stage, StageModule


class BiasNet(Method):
    """A small network of e_d, added to the logit."""

    hidden: int = Field(default=32, ge=1)
    """Width of the side tower's hidden layer."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with one more logit."""
        return plan.add_logit(BiasTower(name="bias", hidden=self.hidden))

    @property
    def starts_as_backbone(self) -> float:
        """Exactly: the side tower's logit is zero."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class BiasTower(Stage):
    """ReLU(e_d A + a) w + c; w and c start at zero."""

    hidden: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module, whatever else there is at the input."""
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
