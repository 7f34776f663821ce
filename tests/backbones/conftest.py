"""A model's embeddings and tower worked out again in float64, for formulas of whole backbones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.plugins.registry import select


class ByHand:
    """A model with random weights, and its logits on some rows."""

    rows = 6

    def __init__(self, model: CTRModel, data: SplitData) -> None:
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.named_parameters():
            if name != "embedding.table.weight":
                parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
        model.embedding.table.weight.data.normal_(std=0.5, generator=generator)
        batch = data.slice(0, self.rows)
        z_BN, first_order_BF = model.embedding(batch)
        self.logits = model(batch).detach().numpy()
        self.z = z_BN.detach().double().numpy()
        self.first_order = None if first_order_BF is None else first_order_BF.detach().double().numpy()
        self.weight = {
            name.removeprefix("net."): value.double().numpy() for name, value in model.state_dict().items()
        }

    def dense(self, x: np.ndarray, name: str) -> np.ndarray:
        """x W + b."""
        product: np.ndarray = x @ self.weight[f"{name}.weight"] + self.weight[f"{name}.bias"]
        return product

    def tower(self, x: np.ndarray, name: str = "tower", first: int = 0) -> np.ndarray:
        """The output of two layers of tanh."""
        for place in (first, first + 1):
            x = np.tanh(self.dense(x, f"{name}.{place}"))
        return x

    def fields(self, vectors: str) -> np.ndarray:
        """The fields (rows, 5, 4) of the shared schema: four are embedded, one is a plain number."""
        number = self.z[:, 16:, None] * self.weight[vectors]
        return np.concatenate([self.z[:, :16].reshape(-1, 4, 4), number], axis=1)

    def linear(self, name: str) -> np.ndarray:
        """The first-order logit."""
        assert self.first_order is not None
        logit: np.ndarray = self.first_order.sum(1) + self.z[:, 16] * self.weight[f"{name}.weight"][0, 0]
        return logit

    def expect(self, logits: np.ndarray) -> None:
        """Compare with the model's logits."""
        np.testing.assert_allclose(self.logits, logits, rtol=1e-4, atol=1e-4)


@pytest.fixture
def by_hand(build_model: Callable[..., CTRModel], data: SplitData) -> Callable[[str], ByHand]:
    """Build a backbone with random weights; two layers, 8-4."""
    return lambda selector: ByHand(build_model(backbone=selector), data)


@pytest.fixture
def plan_of() -> Callable[[str], Plan]:
    """Return the plan of a backbone."""
    return lambda selector: select("backbones", selector).value.plan()  # type: ignore[union-attr]
