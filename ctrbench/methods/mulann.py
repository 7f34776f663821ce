"""MulANN: the last hidden layer learns to hide the domain from a small network that learns to tell it.

Paper: Schoenauer-Sebag et al., Multi-Domain Adversarial Learning, ICLR 2019
Year: 2019
Conditions on: nothing; the indicator p is only what the discriminator has to tell
Grows with domains: a column of the discriminator, which scoring does not need

METHODS 6.2. With h the last hidden layer, v = relu(h V + c), and t/T the share of training done:

    loss = BCE + mean_i w_p CE(p | softmax(v U + d)), w_p ∝ 1 / √n_p
    gradient of CE: as it is for V, c, U and d, times -λ_t for h and all that stands before it
    λ_t = λ (2 / (1 + exp(-10 t/T)) - 1)

So features are hardly disturbed until the discriminator knows something. The model that scores is the
backbone, and the STAR study finds it slightly below its backbone: what hides the domain helps no click.

Readings: λ enters once, through λ_t, so the discriminator learns at full rate from the first step; w averages
one over training rows; rows of an unseen domain have no domain to tell and count nothing. With one domain it
is the backbone. Departures: none. Left out: the original's discriminator of known and unknown classes, which
means nothing for clicks (6.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from ctrbench.extend import Build, Context, Dense, Field, Method, Plan, Schema, Stage, StageModule

GROWTH = 10.0
"""Of λ_t; near λ after half of training."""


class Mulann(Method):
    """A domain discriminator behind gradient reversal."""

    indexed_by = "indicator"

    weight: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    """λ, the reversed gradient's weight in the end; 0.01, 0.1 and 1 are usual."""
    hidden: int = Field(default=100, ge=1)
    """Width of the discriminator's hidden layer."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a discriminator at the end of the tower."""
        stage = Discriminator(name="mulann", weight=self.weight, hidden=self.hidden)
        return replace(plan, tower=(*plan.tower, stage))

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower does not end in a dense stage."""
        is_dense = plan.tower and isinstance(plan.tower[-1], Dense)
        return (
            None if is_dense else "the discriminator sees the tower's last hidden layer; this plan has none"
        )

    @property
    def starts_as_backbone(self) -> float:
        """Exactly; the discriminator only adds to the loss."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Discriminator(Stage):
    """Hands its input on, and in training adds how well the domain can be told from it to the loss."""

    weight: float
    hidden: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; He and Xavier uniform, zero biases."""
        return DiscriminatorModule(self, num_inputs, build)


class DiscriminatorModule(StageModule):
    """Computes `Discriminator`; λ_t and the domains' weights are buffers."""

    reversal: torch.Tensor
    """λ_t."""
    balance: torch.Tensor
    """w_p of domains 1..M."""

    def __init__(self, stage: Discriminator, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.weight = num_inputs, stage.weight
        hidden = Dense(name=f"{stage.name}.hidden", width=stage.hidden, activation="relu")
        output = Dense(name=f"{stage.name}.output", width=build.schema.num_indicators)
        self.hidden = hidden.build(num_inputs, build)
        self.output = output.build(stage.hidden, build)
        self.register_buffer("reversal", torch.zeros(()))
        self.register_buffer("balance", balanced(build.schema))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to the same (B, N)."""
        if self.training:
            told_BM = self.output(self.hidden(reversed_gradient(x_BN, self.reversal), context), context)
            loss = self._cross_entropy(told_BM.float(), context)
            context.penalties.append(loss * context.share)
            context.logs["mulann.domain_loss"] = loss.detach()
        return x_BN

    def _cross_entropy(self, told_BM: torch.Tensor, context: Context) -> torch.Tensor:
        routing = context.routing
        # Domain p is class p - 1, so an unseen one is class -1, which counts nothing.
        class_B = routing.present_G.index_select(0, routing.index_B) - 1
        total = functional.cross_entropy(told_BM, class_B, self.balance, ignore_index=-1, reduction="sum")
        return total / len(told_BM)

    def advance(self, progress: float) -> None:
        """Move λ_t."""
        self.reversal.fill_(self.weight * (2.0 / (1.0 + math.exp(-GROWTH * progress)) - 1.0))


def reversed_gradient(x_BN: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return x, exactly, whose gradient comes back times -factor."""
    kept_BN = x_BN.detach()
    return kept_BN + factor * (kept_BN - x_BN)


def balanced(schema: Schema) -> torch.Tensor:
    """Return w_p ∝ 1 / √n_p of domains 1..M, one on average over training rows."""
    rows_M = torch.tensor(schema.indicator_rows[1:], dtype=torch.float64).clamp_min(1.0)
    weight_M = rows_M.rsqrt()
    return (weight_M * rows_M.sum() / (weight_M * rows_M).sum()).float()
