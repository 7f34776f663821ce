"""The settings of every method, as model and optimizer receive them with a plan.

`Method` declares them and `Method.apply` puts them into the plan, so a method's own file has them without a line. All
are off by default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ctrbench.nn.kernels.missed_steps import AdamConfig
from ctrbench.nn.layer_output import Regularization


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """Settings of every method; see the attributes of the same names in `ctrbench.plugins.base.Method`."""

    lr: float | None = None
    dropout: float = 0.0
    weight_decay: float = 0.0
    embedding_l2: float = 0.0

    @property
    def regularization(self) -> Regularization:
        """Regularization of the hidden layers of towers."""
        return Regularization(dropout=self.dropout)

    def adam(self, config: AdamConfig) -> AdamConfig:
        """Return the settings of a run's optimizer with those of the method."""
        return replace(
            config,
            lr=config.lr if self.lr is None else self.lr,
            weight_decay=self.weight_decay,
            embedding_l2=self.embedding_l2,
        )
