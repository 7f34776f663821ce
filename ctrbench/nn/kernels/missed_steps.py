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


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Settings of Adam, for dense weights and table rows; of the regularizers, see `ctrbench.nn.optim`."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    embedding_rule: EmbeddingRule = "adam"
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
        self.rho1 = config.beta1 / config.beta2**0.5
        self.rho2 = config.beta1 / config.beta2
        self.table1 = _tabulate(config.beta1, config.beta2, self.rho1, 0.5).to(device)
        self.table2 = _tabulate(config.beta1, config.beta2, self.rho2, 1.0).to(device)
        self.sums_2H, self.powers_4H = _arrays_for_loops(config)

    def sums(self, last_U: torch.Tensor, missed_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return g1 and g2 of rows that were last touched at step `last` and missed `missed` steps."""
        g1 = self._difference(self.table1, self.rho1, last_U, missed_U)
        return g1, self._difference(self.table2, self.rho2, last_U, missed_U)

    @staticmethod
    def _difference(
        table: torch.Tensor, rho: float, last_U: torch.Tensor, missed_U: torch.Tensor
    ) -> torch.Tensor:
        end_U = (last_U + missed_U).clamp_max(_HORIZON)
        return table[last_U.clamp_max(_HORIZON)] - rho ** missed_U.double() * table[end_U]


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
def _arrays_for_loops(config: AdamConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return both sums, and the powers of ρ1, ρ2, β1 and β2, as arrays for the loops."""
    beta1, beta2 = config.beta1, config.beta2
    rhos = (beta1 / beta2**0.5, beta1 / beta2)
    sums = [_tabulate(beta1, beta2, rho, power).numpy() for rho, power in zip(rhos, (0.5, 1.0), strict=True)]
    steps = np.arange(_HORIZON + 1, dtype=np.float64)
    return np.stack(sums), np.stack([base**steps for base in (*rhos, beta1, beta2)])
