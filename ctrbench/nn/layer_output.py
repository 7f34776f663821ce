"""The output of a dense layer: activation and, for the hidden layers of towers, dropout.

A `Dense` stage carries its `Regularization`, so a method that replaces or copies a dense stage keeps it. Every module
that stands for a dense stage ends in the `LayerOutput` of that stage.

Shapes in names: B rows, M outputs, K layers side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ctrbench.nn.build import Activation
from ctrbench.nn.context import Context


@dataclass(frozen=True, kw_only=True)
class Regularization:
    """Regularization of the output of a hidden layer."""

    dropout: float = 0.0
    """Share of the outputs that are zero in a training step."""

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
    """dropout(φ(x)) of a layer's products x, (B, M) or (K, B, M) for K layers side by side.

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

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Map the products to the outputs, of equal shape."""
        x, share = activate(x, self.activation), self.regularization.dropout
        return drop_out(x, share, context.generator) if share and self.training else x

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """Map the products to the outputs as in eval mode, also within a training step."""
        return activate(x, self.activation)


def drop_out(x: torch.Tensor, share: float, generator: torch.Generator | None) -> torch.Tensor:
    """Return x with a share of its numbers set to zero and the others divided by 1 - share."""
    kept = torch.empty_like(x).bernoulli_(1.0 - share, generator=generator)
    return x * kept.div_(1.0 - share)
