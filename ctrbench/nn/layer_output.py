"""The output of a dense layer: activation and, for the hidden layers of towers, normalization and dropout.

A `Dense` stage carries its `Regularization`, so a method that replaces or copies a dense stage keeps it. Every module
that stands for a dense stage ends in the `LayerOutput` of that stage.

Shapes in names: B rows, M outputs, K layers side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ctrbench.nn.build import Activation
from ctrbench.nn.context import Context
from ctrbench.nn.normalization import BatchNormalization, LayerNormalization

TowerNorm = Literal["batch", "layer"]


@dataclass(frozen=True, kw_only=True)
class Regularization:
    """Regularization of the output of a hidden layer."""

    dropout: float = 0.0
    """Share of the outputs that are zero in a training step."""
    norm: TowerNorm | None = None
    """Normalization of the products, before the activation."""

    @property
    def is_active(self) -> bool:
        """Whether anything differs from a layer without regularization."""
        return self != Regularization()


def activate(x: torch.Tensor, activation: Activation | None) -> torch.Tensor:
    """Apply the named activation, or none."""
    if activation is None:
        return x
    return torch.tanh(x) if activation == "tanh" else torch.relu(x)


class LayerOutput(nn.Module):
    """dropout(φ(norm(x))) of a layer's products x, (B, M) or (K, B, M) for K layers side by side.

    The order is that of the multi-domain models of torch-rechub and Scenario-Wise-Rec: linear, normalization,
    activation, dropout. Each of K layers has moments, γ and β of its own. The domains of a layer per domain share them:
    moments are those of all rows of the batch.

    Dropout (Srivastava et al., JMLR 2014) is inverted: in training each number is zero with probability p,
    independently, and the others are divided by 1 - p; in eval mode nothing happens.
    """

    def __init__(
        self,
        activation: Activation | None,
        regularization: Regularization,
        width: int,
        *,
        num_layers: int = 1,
    ) -> None:
        """`width` is M, and `num_layers` is K."""
        super().__init__()
        self.activation, self.regularization = activation, regularization
        self.norm: BatchNormalization | LayerNormalization | None = None
        if regularization.norm == "batch":
            self.norm = BatchNormalization(num_layers * width)
        elif regularization.norm == "layer":
            self.norm = LayerNormalization(*((num_layers, 1) if num_layers > 1 else ()), width)

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Map the products to the outputs, of equal shape."""
        if self.norm is not None:
            # Moments need more precision than products in bfloat16 have.
            x = self._normalize(x.float(), context)
        x, share = activate(x, self.activation), self.regularization.dropout
        return drop_out(x, share, context.generator) if share and self.training else x

    def _normalize(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        normed: torch.Tensor
        if isinstance(self.norm, BatchNormalization) and x.dim() == 3:
            num_layers, num_rows, width = x.shape
            normed = self.norm(x.transpose(0, 1).reshape(num_rows, num_layers * width), context)
            return normed.view(num_rows, num_layers, width).transpose(0, 1)
        assert self.norm is not None, "only called with a normalization"
        normed = self.norm(x, context)
        return normed

    def score(self, x_PBM: torch.Tensor, context: Context) -> torch.Tensor:
        """Map the products of one layer with P domains' weights to the outputs, as in eval mode, also in training."""
        if isinstance(self.norm, BatchNormalization):
            x_PBM = self.norm.normalize_by_running_moments(x_PBM.float().flatten(0, 1)).view_as(x_PBM)
        elif self.norm is not None:
            x_PBM = self.norm(x_PBM.float(), context)
        return activate(x_PBM, self.activation)


def drop_out(x: torch.Tensor, share: float, generator: torch.Generator | None) -> torch.Tensor:
    """Return x with a share of its numbers set to zero and the others divided by 1 - share."""
    kept = torch.empty_like(x).bernoulli_(1.0 - share, generator=generator)
    return x * kept.div_(1.0 - share)
