"""Normalization of batches and of rows as modules, for stages and for the hidden layers of towers.

Shapes in names: B rows, N inputs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ctrbench.nn.capabilities import Capabilities
from ctrbench.nn.context import Context
from ctrbench.nn.exchange import Team

CONSTANT = 1e-3
"""Share of ε below which a variance is rounding: the column is constant, among all rows or within the domain."""


class BatchNormalization(nn.Module, Capabilities):
    """Batch normalization of N columns; running moments are buffers, updated in training mode only.

    See `ctrbench.nn.norms.BatchNorm` for the formulas.
    """

    uses_team = True
    mean: torch.Tensor
    variance: torch.Tensor
    batches: torch.Tensor

    def __init__(self, num_inputs: int, *, momentum: float = 0.01, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.scale, self.shift = nn.Parameter(torch.ones(num_inputs)), nn.Parameter(torch.zeros(num_inputs))
        self.register_buffer("mean", torch.zeros(num_inputs))
        self.register_buffer("variance", torch.ones(num_inputs))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        if self.training and context.team is not None:
            return self._normalize_over_workers(x_BN, context.team)
        if not self.training or len(x_BN) == 1:
            return self.normalize_by_running_moments(x_BN)
        normed_BN: torch.Tensor
        normed_BN, mean_N, root_N = torch.native_batch_norm(
            x_BN, self.scale, self.shift, None, None, True, 0.0, self.eps
        )
        self._update(mean_N.detach(), root_N.detach(), len(x_BN))
        return normed_BN

    def normalize_by_running_moments(self, x_BN: torch.Tensor) -> torch.Tensor:
        """Normalize as in eval mode."""
        is_constant = self.variance < CONSTANT * self.eps
        variance = self.variance.masked_fill(is_constant, float("inf"))
        return functional.batch_norm(x_BN, self.mean, variance, self.scale, self.shift, eps=self.eps)

    def _normalize_over_workers(self, x_BN: torch.Tensor, team: Team) -> torch.Tensor:
        """Normalize with moments over all workers' rows."""
        sums = team.sum(torch.cat([x_BN.sum(0), x_BN.new_full((1,), len(x_BN))]))
        num_rows = round(float(sums[-1].detach()))
        if num_rows == 1:
            return self.normalize_by_running_moments(x_BN)
        mean_N = sums[:-1] / num_rows
        # To first order the sum of squares does not depend on the mean, so no gradient is needed there.
        squares_N = team.sum((x_BN - mean_N.detach()).square().sum(0))
        root_N = torch.rsqrt(squares_N / num_rows + self.eps)
        self._update(mean_N.detach(), root_N.detach(), num_rows)
        scale_N = self.scale * root_N
        return torch.addcmul(self.shift - mean_N * scale_N, x_BN, scale_N)

    @torch.no_grad()
    def _update(self, mean_N: torch.Tensor, root_N: torch.Tensor, num_rows: int) -> None:
        share = (1.0 / (self.batches + 1.0)).clamp_min(self.momentum)
        variance_N = (root_N**-2.0 - self.eps).clamp_min(0.0) * (num_rows / (num_rows - 1))
        self.mean.lerp_(mean_N, share)
        self.variance.lerp_(variance_N, share)
        self.batches.add_(1.0)


class LayerNormalization(nn.Module):
    """Layer normalization of the last dimension, with γ and β of the given shape."""

    def __init__(self, *shape: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale, self.shift = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Map rows to rows of equal shape."""
        size = [x.shape[-1]]
        if self.scale.dim() == 1:
            return functional.layer_norm(x, size, self.scale, self.shift, self.eps)
        return torch.addcmul(self.shift, functional.layer_norm(x, size, eps=self.eps), self.scale)
