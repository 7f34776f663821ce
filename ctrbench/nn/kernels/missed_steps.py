"""Adam's settings, and the closed form of the steps that a table row misses (spec: adam-12.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

EmbeddingRule = Literal["adam", "lazy_adam"]
_HORIZON = 1 << 15
"""Steps after which the bias corrections of Adam are one to float precision, at β2 ≤ 0.9995."""
_WINDOW = 512
"""Steps after which ρ^j is zero to double precision, at β1 ≤ 0.92."""


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Settings of Adam, for dense weights and table rows; of the regularizers, see `ctrbench.nn.optim`."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    embedding_rule: EmbeddingRule = "adam"
    is_scheduled: bool = False
    """Whether the learning rate changes in training, so that missed steps have rates of their own."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, w ← w - lr λ w before a step that moves w (Loshchilov and Hutter, ICLR 2019)."""
    embedding_l2: float = 0.0
    """λ of the penalty λ/2 Σ ‖e‖² over the distinct embedding rows that a step reads: their gradient gains λ e."""


class MissedSteps:
    """Tabulated sums with which a row makes up for steps without a gradient (spec: adam-12.1).

    With s(t) = c2(t)^a / c1(t) and ci(t) = 1 - βi^t, H(t) = Σ_{j≥1} ρ^j s(t + j) is tabulated backwards in float64;
    the sum over k missed steps is then H(t0) - ρ^k H(t0 + k).
    """

    def __init__(self, config: AdamConfig, device: torch.device | None = None) -> None:
        self.config = config
        self.lr = config.lr
        """Factor of the sums."""
        self.rho1 = config.beta1 / config.beta2**0.5
        self.rho2 = config.beta1 / config.beta2
        self.table1 = _tabulate(config.beta1, config.beta2, self.rho1, 0.5).to(device)
        self.table2 = _tabulate(config.beta1, config.beta2, self.rho2, 1.0).to(device)
        self.sums_2H, self.powers_4H = _arrays_for_loops(config.beta1, config.beta2)

    def sums(self, last_U: torch.Tensor, missed_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return g1 and g2 of rows that were last touched at step `last` and missed `missed` steps."""
        g1 = self._difference(self.table1, self.rho1, last_U, missed_U)
        return g1, self._difference(self.table2, self.rho2, last_U, missed_U)

    def count(self, step: int, lr: float) -> None:
        """Note that step number `step` was made with a learning rate."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state that the steps made have left."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load the state returned by `state_dict`."""

    @staticmethod
    def _difference(
        table: torch.Tensor, rho: float, last_U: torch.Tensor, missed_U: torch.Tensor
    ) -> torch.Tensor:
        end_U = (last_U + missed_U).clamp_max(_HORIZON)
        return table[last_U.clamp_max(_HORIZON)] - rho ** missed_U.double() * table[end_U]


class ScheduledSteps(MissedSteps):
    """The sums where each step i has a learning rate of its own, lr_i.

    For a row last touched at step t0, Σ_{j=1}^{k} ρ^j lr_{t0+j} s(t0 + j) is kept up to the last step made, for every
    t0: a step adds its term to the last `_WINDOW` entries, older ones being complete to double precision. The entry of
    the last step is zero, so loops that subtract it read the same sum as in `MissedSteps`.
    """

    def __init__(self, config: AdamConfig, device: torch.device | None = None) -> None:
        super().__init__(config, device)
        self.lr = 1.0
        self.step = 0
        powers_W = torch.arange(_WINDOW, 0, -1, dtype=torch.float64, device=device)
        self._powers_2W = torch.stack([self.rho1**powers_W, self.rho2**powers_W])
        self._reserve(torch.zeros(2, _WINDOW, dtype=torch.float64, device=device))

    def _reserve(self, sums_2H: torch.Tensor) -> None:
        self.table_2H = torch.cat([sums_2H, torch.zeros_like(sums_2H)], dim=1)
        if self.table_2H.device.type == "cpu":
            self.sums_2H = self.table_2H.numpy()

    def count(self, step: int, lr: float) -> None:
        """Add the terms of step number `step`, made with a learning rate."""
        if step >= self.table_2H.shape[1]:
            self._reserve(self.table_2H)
        c1, c2 = 1.0 - self.config.beta1**step, 1.0 - self.config.beta2**step
        first = max(0, step - _WINDOW)
        for sums_H, powers_W, scale in zip(
            self.table_2H, self._powers_2W, (c2**0.5 / c1, c2 / c1), strict=True
        ):
            sums_H[first:step].add_(powers_W[first - step :], alpha=lr * scale)
        self.step = step

    def sums(self, last_U: torch.Tensor, missed_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return g1 and g2 of rows that were last touched at step `last`."""
        g1, g2 = (sums_H[last_U.clamp_max(self.step)] for sums_H in self.table_2H)
        return g1, g2

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the sums of all steps made."""
        return {"sums": self.table_2H[:, : self.step + 1].clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load the state returned by `state_dict`."""
        sums_2H = state["sums"]
        self.step = sums_2H.shape[1] - 1
        size = max(_WINDOW, sums_2H.shape[1])
        table_2H = torch.zeros(2, size, dtype=torch.float64, device=self.table_2H.device)
        table_2H[:, : sums_2H.shape[1]] = sums_2H
        self._reserve(table_2H)


def missed_steps(config: AdamConfig, device: torch.device | None = None) -> MissedSteps:
    """Return the sums for a constant or a scheduled learning rate."""
    return (ScheduledSteps if config.is_scheduled else MissedSteps)(config, device)


@lru_cache(maxsize=8)
def _tabulate(beta1: float, beta2: float, rho: float, power: float) -> torch.Tensor:
    step = torch.arange(_HORIZON + 1, dtype=torch.float64)
    factor = (1.0 - beta2**step) ** power / (1.0 - beta1**step)
    total, sums = rho / (1.0 - rho), []
    for value in reversed(factor.tolist()):
        sums.append(total)
        total = rho * (value + total)
    return torch.tensor(sums[::-1], dtype=torch.float64)


@lru_cache(maxsize=8)
def _arrays_for_loops(beta1: float, beta2: float) -> tuple[np.ndarray, np.ndarray]:
    """Return both sums, and the powers of ρ1, ρ2, β1 and β2, as arrays for the loops."""
    rhos = (beta1 / beta2**0.5, beta1 / beta2)
    sums = [_tabulate(beta1, beta2, rho, power).numpy() for rho, power in zip(rhos, (0.5, 1.0), strict=True)]
    steps = np.arange(_HORIZON + 1, dtype=np.float64)
    return np.stack(sums), np.stack([base**steps for base in (*rhos, beta1, beta2)])
