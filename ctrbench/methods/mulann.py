"""MulANN: the last hidden layer learns to hide the domain from a discriminator that learns to predict it.

Paper: Schoenauer-Sebag et al., Multi-Domain Adversarial Learning, ICLR 2019
Year: 2019
Uses: the indicator p, in training only, as the discriminator's target
Parameters per domain: one column of the discriminator, which scoring does not use

With h the last hidden layer, v = ReLU(h V + c) and t/T the share of training done (spec: mulann-6.4):

    loss = BCE + mean_i w_p CE(p | softmax(v U + d))        w_p ∝ 1 / √n_p
    λ_t  = λ (2 / (1 + exp(-10 t/T)) - 1)

The gradient of CE reaches V, c, U and d unchanged, and h with everything before it multiplied by -λ_t. Features are
therefore hardly disturbed until the discriminator has learned something. The scoring model is the backbone.

Plan: one stage at the end of the tower, which passes its input on.

Choices: λ enters once, through λ_t, so the discriminator learns at full rate from the first step. The mean of w over
training rows is one. Rows of an unseen domain have weight zero. With one domain the model is the backbone.

Not implemented: the discriminator of known and unknown classes of the paper, which has no meaning for clicks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch.nn import functional

from ctrbench.extend import (
    Build,
    Choices,
    Context,
    Dense,
    Field,
    LogRange,
    Method,
    Plan,
    Schema,
    Stage,
    StageModule,
)

GROWTH = 10.0
"""Growth rate of λ_t, which is close to λ after half of training."""


class Mulann(Method):
    """A domain discriminator behind gradient reversal."""

    indexed_by = "indicator"

    weight: Annotated[float, LogRange(0.01, 1.0)] = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    """λ, the final weight of the reversed gradient; usually 0.01, 0.1 or 1."""
    hidden: Annotated[int, Choices(50, 100, 200)] = Field(default=100, ge=1, le=65_536)
    """Width of the discriminator's hidden layer."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a discriminator at the end of the tower."""
        stage = Discriminator(name="mulann", weight=self.weight, hidden=self.hidden)
        return replace(plan, tower=(*plan.tower, stage))

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans whose tower does not end in a dense stage."""
        if plan.tower and plan.tower[-1].as_dense() is not None:
            return None
        return "the discriminator reads the tower's last hidden layer, and this plan has none"

    @property
    def starts_as_backbone(self) -> float:
        """Return 0.0: the discriminator changes only the loss."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Discriminator(Stage):
    """Passes its input on; in training adds the discriminator's cross-entropy to the loss."""

    weight: float
    hidden: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; weights He and Xavier uniform, biases zero."""
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
        self.register_buffer("balance", class_weights(build.schema))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to the same (B, N)."""
        if self.training:
            predicted_BM = self.output(self.hidden(reversed_gradient(x_BN, self.reversal), context), context)
            loss = self._cross_entropy(predicted_BM.float(), context)
            context.penalties.append(loss * context.share)
            context.logs["mulann.domain_loss"] = loss.detach()
        return x_BN

    def _cross_entropy(self, predicted_BM: torch.Tensor, context: Context) -> torch.Tensor:
        routing = context.routing
        # Domain p is class p - 1, so unseen domains are class -1, which is ignored.
        class_B = routing.present_G.index_select(0, routing.index_B) - 1
        total = functional.cross_entropy(
            predicted_BM, class_B, self.balance, ignore_index=-1, reduction="sum"
        )
        return total / len(predicted_BM)

    def advance(self, progress: float) -> None:
        """Set λ_t for the share of planned steps done."""
        self.reversal.fill_(self.weight * (2.0 / (1.0 + math.exp(-GROWTH * progress)) - 1.0))


def reversed_gradient(x_BN: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return x bit-equal, with its gradient multiplied by -factor."""
    kept_BN = x_BN.detach()
    return kept_BN + factor * (kept_BN - x_BN)


def class_weights(schema: Schema) -> torch.Tensor:
    """Return w_p ∝ 1 / √n_p of domains 1..M, with mean one over training rows."""
    rows_M = torch.tensor(schema.indicator_rows[1:], dtype=torch.float64).clamp_min(1.0)
    weight_M = rows_M.rsqrt()
    return (weight_M * rows_M.sum() / (weight_M * rows_M).sum()).float()
