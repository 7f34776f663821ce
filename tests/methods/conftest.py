"""Fixtures of the tests of methods: changed parameters, rows of cities, and slopes of formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.data.batches import Batch, SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.tables import RowTable
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner

Slope = Callable[[Callable[[np.ndarray], float], np.ndarray], np.ndarray]


@pytest.fixture
def stir() -> Callable[[CTRModel], CTRModel]:
    """Change all weights except embeddings and parameters of the unseen domain."""

    def move(model: CTRModel) -> CTRModel:
        generator = torch.Generator().manual_seed(5)
        tables = {id(module.weight) for module in model.modules() if isinstance(module, RowTable)}
        with torch.no_grad():
            for parameter in model.net.parameters():
                part = parameter[1:] if id(parameter) in tables else parameter
                part += 0.3 * torch.randn(part.shape, generator=generator)
        return model

    return move


@pytest.fixture
def of_city(data: SplitData) -> Callable[..., torch.Tensor]:
    """Return the indices of the training rows of some cities."""

    def find(*cities: int) -> torch.Tensor:
        return torch.nonzero(torch.isin(data.indicator_B, torch.tensor(cities)))[:, 0]

    return find


@pytest.fixture
def learn() -> Callable[..., None]:
    """Make steps of ordinary training on the same rows."""

    def make_steps(model: CTRModel, batch: Batch, steps: int = 3) -> None:
        optimizer = Optimizer(model, AdamConfig(lr=0.01))
        for _ in range(steps):
            Learner().step(model, optimizer, batch)

    return make_steps


@pytest.fixture
def input_gradient(unseen_data: SplitData) -> Callable[[CTRModel], tuple[np.ndarray, np.ndarray]]:
    """Return the embeddings of four rows, float64, and the gradient there of the sum of squared logits."""

    def differentiate(model: CTRModel) -> tuple[np.ndarray, np.ndarray]:
        context = model.context(unseen_data.slice(0, 4))
        context.z_BN = context.z_BN.detach().requires_grad_()
        model.net(context).square().sum().backward()
        assert context.z_BN.grad is not None
        return context.z_BN.detach().double().numpy(), context.z_BN.grad.numpy()

    return differentiate


@pytest.fixture
def history_schema(schema: Schema) -> Schema:
    """The shared fields and a sequence of earlier users."""
    history = FieldShape(name="history", kind="sequence", role="user", size=41, target="user")
    return replace(schema, fields=(*schema.fields, history))


@pytest.fixture
def add_history() -> Callable[[SplitData], SplitData]:
    """Add lists of up to four earlier users to rows; every fifth list is empty."""

    def add(data: SplitData) -> SplitData:
        generator, rows = np.random.default_rng(5), np.arange(len(data))
        lengths = np.where(rows % 5 == 0, 0, generator.integers(1, 5, len(data)))
        values = generator.integers(1, 41, lengths.sum()).astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return replace(data, bags=(*data.bags, (torch.from_numpy(values), torch.from_numpy(offsets))))

    return add


@pytest.fixture
def build_with_history(history_schema: Schema) -> Callable[..., CTRModel]:
    """Build a method on a backbone for rows with histories."""

    def build(method: str, backbone: str = "dnn[hidden=8-4]") -> CTRModel:
        rewriter, base = select("methods", method).value, select("backbones", backbone).value
        return CTRModel(rewriter.apply(base.full_plan()), history_schema, seed=1)

    return build


@pytest.fixture
def slope() -> Slope:
    """Differentiate a float64 function of an array by each of its numbers, by central differences."""

    def differentiate(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
        found = np.zeros_like(at)
        for place in np.ndindex(*at.shape):
            step = np.zeros_like(at)
            step[place] = 1e-6
            found[place] = (function(at + step) - function(at - step)) / 2e-6
        return found

    return differentiate
