"""Embeddings, towers and stages computed in float64 by numpy, for formulas of backbones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Stage
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
        """The fields (rows, 5, 4) of the shared schema: four are embedded, one is numeric."""
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


class StageByHand:
    """A stage with random weights, and its output on random rows; weights are in float64."""

    rows = 6

    def __init__(self, stage: Stage, schema: Schema, num_inputs: int, scale: float) -> None:
        self.schema, self.module = schema, stage.build(num_inputs, Build(schema=schema, seed=1))
        for index, parameter in enumerate(self.module.parameters()):
            parameter.data = scale * drawn(*parameter.shape, seed=100 + index)
        self.x_BN = drawn(self.rows, num_inputs)
        self.x = self.x_BN.double().numpy()
        self.weight = {
            name: value.detach().double().numpy() for name, value in self.module.named_parameters()
        }

    def context(self, x_BN: torch.Tensor) -> Context:
        """The context of rows of one domain whose embeddings are x."""
        ids_B = torch.ones(len(x_BN), dtype=torch.int32)
        first_order_BF = drawn(len(x_BN), 4, seed=7).to(x_BN.dtype)
        return Context(
            schema=self.schema, z_BN=x_BN, domain_B=ids_B, indicator_B=ids_B, first_order_BF=first_order_BF
        )

    def fields(self, row: np.ndarray) -> list[np.ndarray]:
        """The fields of a row of z; the last is the numeric field times its vector."""
        return [*row[:-1].reshape(4, 4), row[-1] * self.weight["fields.numbers"][0]]

    def expect(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Compare the output with that of a function of each row."""
        output_BM = self.module(self.x_BN, self.context(self.x_BN))
        assert output_BM.shape == (self.rows, self.module.num_outputs)
        expected = np.stack([function(row) for row in self.x])
        np.testing.assert_allclose(output_BM.detach().numpy(), expected, rtol=2e-4, atol=2e-4)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def stage_by_hand(schema: Schema) -> Callable[..., StageByHand]:
    """Build a stage with random weights; its inputs are z of the shared schema by default."""

    def build(stage: Stage, num_inputs: int = 17, scale: float = 1.0) -> StageByHand:
        return StageByHand(stage, schema, num_inputs, scale)

    return build


@pytest.fixture
def by_hand(build_model: Callable[..., CTRModel], data: SplitData) -> Callable[[str], ByHand]:
    """Build a backbone with random weights; two layers, 8-4."""
    return lambda selector: ByHand(build_model(backbone=selector), data)


@pytest.fixture
def plan_of() -> Callable[[str], Plan]:
    """Return the plan of a backbone."""
    return lambda selector: select("backbones", selector).value.plan()
