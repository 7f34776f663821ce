"""Layers of domains, layers side by side, and the common normalisations, against plain loops in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.model import Context, CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Build, Dense, Plan, Schema
from ctrbench.nn.stages import (
    BatchNorm,
    BatchNormModule,
    DenseBank,
    DomainDense,
    DomainDenseModule,
    LayerNorm,
    TowerBank,
)
from ctrbench.train.learner import Learner


@pytest.fixture
def build(schema: Schema) -> Build:
    return Build(schema=schema, seed=1)


def context(schema: Schema, x_BN: torch.Tensor, indicator: list[int] | None = None) -> Context:
    indicator_B = torch.tensor(indicator or [1] * len(x_BN), dtype=torch.int32)
    return Context(schema=schema, z_BN=x_BN, domain_B=indicator_B, indicator_B=indicator_B)


def own_tower(plan: Plan) -> Plan:
    return plan.map_dense(lambda dense: DomainDense(**vars(dense)))


def test_each_row_meets_its_domains_own_layer(schema: Schema, build: Build) -> None:
    module = DomainDense(name="own", width=3, activation="tanh").build(5, build)
    assert isinstance(module, DomainDenseModule)
    torch.nn.init.normal_(module.domain.weight, generator=torch.Generator().manual_seed(1))
    x_BN = torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
    # City 1 has the most training rows, so rows of an unseen city go through its layer.
    given, met = [2, 0, 6, 2, 1, 3, 0], [2, 1, 6, 2, 1, 3, 1]
    table, x = module.domain.weight.detach().double().numpy(), x_BN.double().numpy()
    expected = [np.tanh(row @ table[p, :-1] + table[p, -1]) for row, p in zip(x, met, strict=True)]
    np.testing.assert_allclose(module(x_BN, context(schema, x_BN, given)).detach(), expected, rtol=1e-5)


def test_layers_of_domains_start_as_the_shared_one(build: Build) -> None:
    own = DomainDense(name="tower0", width=3).build(5, build)
    shared = Dense(name="tower0", width=3).build(5, build)
    assert isinstance(own, DomainDenseModule)
    assert torch.equal(own.domain.weight[4, :-1], shared.get_parameter("weight"))


def test_only_domains_of_the_batch_move(
    build_model: Callable[..., CTRModel], schema: Schema, data: SplitData
) -> None:
    model = CTRModel(
        own_tower(Plan(tower=(Dense(name="a", width=4),), head=(Dense(name="b", width=1),))), schema, seed=1
    )
    optimizer = Optimizer(model, AdamConfig(lr=0.1))
    tables = [module.domain.weight for module in model.modules() if isinstance(module, DomainDenseModule)]
    before = [table.detach().clone() for table in tables]
    rows = torch.nonzero(torch.isin(data.indicator_B, torch.tensor([2, 3])))[:, 0]
    Learner().step(model, optimizer, data.take(rows))
    for table, start in zip(tables, before, strict=True):
        moved = (table.detach() != start).flatten(1).any(1).tolist()
        assert moved == [False, False, True, True, False, False, False]


@pytest.mark.parametrize("shared", [True, False])
def test_layers_side_by_side_are_layers(build: Build, *, shared: bool) -> None:
    bank = DenseBank(Dense(name="bank", width=2, activation="relu"), 3, 4, build)
    torch.nn.init.normal_(bank.bias)
    x = torch.randn(5, 4) if shared else torch.randn(3, 5, 4)
    weight, bias = bank.weight.detach().double(), bank.bias.detach().double()
    for place in range(3):
        rows = (x if shared else x[place]).double()
        expected = np.maximum(rows.numpy() @ weight[place].numpy() + bias[place].numpy(), 0.0)
        np.testing.assert_allclose(bank(x)[place].detach(), expected, rtol=1e-5, atol=1e-6)


def test_layers_side_by_side_start_apart(build: Build) -> None:
    bank = DenseBank(Dense(name="bank", width=2), 3, 4, build)
    assert len(torch.unique(bank.weight.detach().flatten(1), dim=0)) == 3


def test_a_bank_of_towers_is_its_layers_in_turn(build: Build) -> None:
    tower = (Dense(name="a", width=3, activation="tanh"), Dense(name="b", width=2))
    bank, x_BN = TowerBank(tower, 4, 5, build), torch.randn(6, 5)
    first, second = bank
    assert bank.num_outputs == 2
    assert torch.equal(bank(x_BN), second(first(x_BN)))
    assert bank(x_BN).shape == (4, 6, 2)


def batch_norm(schema: Schema, **settings: float) -> BatchNormModule:
    module = BatchNorm(name="bn", **settings).build(2, Build(schema=schema, seed=1))
    assert isinstance(module, BatchNormModule)
    with torch.no_grad():
        module.scale.copy_(torch.tensor([2.0, 3.0]))
        module.shift.copy_(torch.tensor([1.0, -1.0]))
    return module


def test_batch_normalisation_takes_moments_of_the_batch_in_training(schema: Schema) -> None:
    module = batch_norm(schema, eps=0.5)
    x_BN = torch.tensor([[1.0, 10.0], [3.0, 10.0], [5.0, 16.0]])
    # Means 3 and 12; biased variances 8/3 and 8.
    first = 2.0 * np.array([-2.0, 0.0, 2.0]) / np.sqrt(8 / 3 + 0.5) + 1.0
    second = 3.0 * np.array([-2.0, -2.0, 4.0]) / np.sqrt(8.0 + 0.5) - 1.0
    np.testing.assert_allclose(module(x_BN, context(schema, x_BN)).detach().T, [first, second], rtol=1e-5)


def test_running_moments_are_means_first_and_then_move_by_eta(schema: Schema) -> None:
    module = batch_norm(schema, momentum=0.4)
    batches = [torch.tensor([[a, 0.0], [a + 2.0, 4.0]]) for a in (0.0, 4.0, 10.0)]
    for x_BN in batches:
        module(x_BN, context(schema, x_BN))
    # Means 1, 5, 11: 1, then half of each, 3, then 0.4 of the way to 11. Unbiased variances are 2 throughout.
    assert module.mean.tolist() == pytest.approx([3.0 + 0.4 * 8.0, 2.0])
    assert module.variance.tolist() == pytest.approx([2.0, 8.0], rel=1e-4)
    module.eval()
    x_BN = torch.tensor([[0.0, 0.0]])
    expected = [2.0 * -6.2 / np.sqrt(2.0 + 1e-5) + 1.0, 3.0 * -2.0 / np.sqrt(8.0 + 1e-5) - 1.0]
    assert module(x_BN, context(schema, x_BN)).tolist()[0] == pytest.approx(expected, rel=1e-4)
    assert module.batches == 3.0


def test_a_single_row_is_normalised_with_running_moments(schema: Schema) -> None:
    module, x_BN = batch_norm(schema), torch.tensor([[4.0, -1.0]])
    found = module.train()(x_BN, context(schema, x_BN))
    assert found.tolist()[0] == pytest.approx([2.0 * 4.0 + 1.0, 3.0 * -1.0 - 1.0], rel=1e-4)
    assert module.batches == 0.0


def test_a_constant_column_is_zero_with_running_moments_too(schema: Schema) -> None:
    # The second column is one number in each batch and moves from batch to batch, as a lone domain's embedding does.
    module = batch_norm(schema)
    for k in range(40):
        x_BN = torch.tensor([[0.0, 0.05 + 0.001 * k], [4.0, 0.05 + 0.001 * k]])
        module(x_BN, context(schema, x_BN))
    assert module.variance[1] < 1e-10
    x_BN = torch.tensor([[2.0, 0.089], [0.0, 0.5]])
    for rows_BN in (x_BN, x_BN[:1]):
        found = module.train(len(rows_BN) == 1)(rows_BN, context(schema, rows_BN))
        np.testing.assert_allclose(found[:, 1].detach(), -1.0, atol=1e-6)
    found = module.eval()(x_BN, context(schema, x_BN))
    np.testing.assert_allclose(found[:, 0].detach(), [1.0, 1.0 - 4.0 / np.sqrt(8.0)], atol=1e-4)


@pytest.mark.parametrize(("std", "is_constant"), [(5e-5, True), (2e-4, False)])
def test_a_column_is_constant_below_a_thousandth_of_eps(
    schema: Schema, std: float, is_constant: bool
) -> None:
    module = batch_norm(schema)
    module.variance.copy_(torch.tensor([std**2, 1.0]))
    x_BN = torch.tensor([[0.01, 0.0]])
    found = module.eval()(x_BN, context(schema, x_BN))[0, 0].item()
    assert found == pytest.approx(1.0 + (0.0 if is_constant else 2.0 * 0.01 / np.sqrt(1e-5 + std**2)))


def test_layer_normalisation_takes_moments_of_the_row(schema: Schema, build: Build) -> None:
    module = LayerNorm(name="ln", eps=0.5).build(3, build)
    torch.nn.init.constant_(module.get_parameter("scale"), 2.0)
    x_BN = torch.tensor([[1.0, 2.0, 6.0]])
    # Mean 3, biased variance 14/3.
    expected = 2.0 * np.array([-2.0, -1.0, 3.0]) / np.sqrt(14 / 3 + 0.5)
    np.testing.assert_allclose(module(x_BN, context(schema, x_BN))[0].detach(), expected, rtol=1e-5)
