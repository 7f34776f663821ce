"""Reproducible starts: the source of randomness that `Stage.build` is given, and the initial weight of a dense layer.

Shapes in names: N inputs, M outputs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch

from ctrbench.nn.schema import Schema
from ctrbench.nn.tables import EMBEDDING_STD

Activation = Literal["tanh", "relu"]


@dataclass(frozen=True, kw_only=True)
class Build:
    """Argument of `Stage.build`: the data's schema, and a source of reproducible randomness."""

    schema: Schema
    seed: int
    embedding_std: float = EMBEDDING_STD
    """Standard deviation of embeddings at the start; the setting `embedding_std`."""

    def generator(self, label: str) -> torch.Generator:
        """Return a generator that depends only on the run's seed and the label.

        A stage with the same name starts from the same weights in every plan, so a method and its backbone are compared
        from the same start.
        """
        digest = hashlib.blake2b(f"{self.seed}/{label}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def start_weight(
    num_inputs: int, num_outputs: int, activation: Activation | None, generator: torch.Generator
) -> torch.Tensor:
    """Draw an (N, M) weight: He uniform before a ReLU, Xavier uniform otherwise."""
    weight_NM = torch.empty(num_inputs, num_outputs)
    if activation == "relu":
        bound = (6.0 / num_inputs) ** 0.5
    else:
        bound = (6.0 / (num_inputs + num_outputs)) ** 0.5
    return weight_NM.uniform_(-bound, bound, generator=generator)
