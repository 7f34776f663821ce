"""The cost of a part of a model, and its parameters by owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from ctrbench.nn.model import Owner

Owners = Mapping[nn.Parameter, Owner]
"""Owner of each parameter, from `CTRModel.owners()`."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Numbers of parameters, and of multiply-adds of matrix products in a forward pass."""

    embedding: int = 0
    """Parameters of embedding tables."""
    shared: int = 0
    """Parameters that all domains share, embeddings excluded."""
    per_domain: int = 0
    """Parameters of single domains, over all domains."""
    row: int = 0
    """Multiply-adds per row."""
    once: int = 0
    """Multiply-adds per batch of one domain, in addition to those of its rows."""

    @property
    def num_parameters(self) -> int:
        """Number of all parameters."""
        return self.embedding + self.shared + self.per_domain

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def parameter_cost(modules: Iterable[nn.Module], owners: Owners) -> Cost:
    """Count the parameters of modules by owner."""
    counts: Counter[Owner] = Counter()
    for module in modules:
        for parameter in module.parameters():
            counts[owners[parameter]] += parameter.numel()
    return Cost(embedding=counts["embedding"], shared=counts["dense"], per_domain=counts["per_domain"])
