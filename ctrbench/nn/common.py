"""The settings of every method, as model and optimizer receive them with a plan.

`Method` declares them and `Method.apply` puts them into the plan, so a method's own file has them without a line. All
are off by default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from ctrbench.nn.kernels.missed_steps import AdamConfig
from ctrbench.nn.layer_output import Regularization, TowerNorm

LrSchedule = Literal["constant", "cosine", "warmup", "warmup_cosine"]


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """Settings of every method; see the attributes of the same names in `ctrbench.plugins.base.Method`."""

    lr: float | None = None
    lr_schedule: LrSchedule = "constant"
    lr_warmup: float = 0.1
    dropout: float = 0.0
    tower_norm: TowerNorm | None = None
    weight_decay: float = 0.0
    embedding_l2: float = 0.0
    embedding_std: float | None = None
    min_count: int = 1
    id_dropout: float = 0.0

    @property
    def regularization(self) -> Regularization:
        """Regularization of the hidden layers of towers."""
        return Regularization(dropout=self.dropout, norm=self.tower_norm)

    def adam(self, config: AdamConfig) -> AdamConfig:
        """Return the settings of a run's optimizer with those of the method."""
        return replace(
            config,
            lr=config.lr if self.lr is None else self.lr,
            is_scheduled=self.lr_schedule != "constant",
            weight_decay=self.weight_decay,
            embedding_l2=self.embedding_l2,
        )

    def lr_factor(self, done: float, planned_steps: int, epochs: int) -> float:
        """Return the factor of the learning rate at a step, where `done` is the share of training done before it.

        With t the number of the step among T planned ones, done = (t - 1) / T, the factor is

            cosine           (1 + cos(π (t - 1) / T)) / 2
            warmup           min(1, t / S), with S = lr_warmup T / epochs
            warmup_cosine    the product of both
        """
        factor = 1.0
        if "warmup" in self.lr_schedule:
            factor = min(1.0, (done + 1.0 / planned_steps) * epochs / self.lr_warmup)
        if "cosine" in self.lr_schedule:
            factor *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return factor
