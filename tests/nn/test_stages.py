"""Layers per domain and banks of layers, against plain loops in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.layer_output import activate
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import (
    Dense,
    DenseBank,
    DomainDense,
    DomainDenseModule,
    TowerBank,
    domain_table,
)
from ctrbench.train.learner import Learner


@pytest.fixture
def build(schema: Schema) -> Build:
    return Build(schema=schema, seed=1)


def context(schema: Schema, x_BN: torch.Tensor, indicator: list[int] | None = None) -> Context:
    indicator_B = torch.tensor(indicator or [1] * len(x_BN), dtype=torch.int32)
    return Context(schema=schema, z_BN=x_BN, domain_B=indicator_B, indicator_B=indicator_B)


def per_domain(plan: Plan) -> Plan:
    return plan.map_dense(lambda dense: DomainDense(**vars(dense)))


def test_each_row_uses_the_layer_of_its_domain(schema: Schema, build: Build) -> None:
    module = DomainDense(name="own", width=3, activation="tanh").build(5, build)
    assert isinstance(module, DomainDenseModule)
    torch.nn.init.normal_(module.domain.weight, generator=torch.Generator().manual_seed(1))
    x_BN = torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
    # City 1 has the most training rows, so rows of an unseen city use its layer.
    given, used = [2, 0, 6, 2, 1, 3, 0], [2, 1, 6, 2, 1, 3, 1]
    table, x = module.domain.weight.detach().double().numpy(), x_BN.double().numpy()
    expected = [np.tanh(row @ table[p, :-1] + table[p, -1]) for row, p in zip(x, used, strict=True)]
    np.testing.assert_allclose(module(x_BN, context(schema, x_BN, given)).detach(), expected, rtol=1e-5)


def test_layers_of_domains_start_from_the_shared_layer(build: Build) -> None:
    own = DomainDense(name="tower0", width=3).build(5, build)
    shared = Dense(name="tower0", width=3).build(5, build)
    assert isinstance(own, DomainDenseModule)
    assert torch.equal(own.domain.weight[4, :-1], shared.get_parameter("weight"))


def test_only_layers_of_domains_in_the_batch_move(
    build_model: Callable[..., CTRModel], schema: Schema, data: SplitData
) -> None:
    model = CTRModel(
        per_domain(Plan(tower=(Dense(name="a", width=4),), head=(Dense(name="b", width=1),))), schema, seed=1
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
def test_a_bank_equals_its_layers_one_by_one(schema: Schema, build: Build, *, shared: bool) -> None:
    bank = DenseBank(Dense(name="bank", width=2, activation="relu"), 3, 4, build)
    torch.nn.init.normal_(bank.bias)
    x = torch.randn(5, 4) if shared else torch.randn(3, 5, 4)
    own = context(schema, torch.zeros(5, 4))
    weight, bias = bank.weight.detach().double(), bank.bias.detach().double()
    for index in range(3):
        rows = (x if shared else x[index]).double()
        expected = np.maximum(rows.numpy() @ weight[index].numpy() + bias[index].numpy(), 0.0)
        np.testing.assert_allclose(bank(x, own)[index].detach(), expected, rtol=1e-5, atol=1e-6)


def test_layers_of_a_bank_start_from_different_weights(build: Build) -> None:
    bank = DenseBank(Dense(name="bank", width=2), 3, 4, build)
    assert len(torch.unique(bank.weight.detach().flatten(1), dim=0)) == 3


def test_a_bank_of_towers_applies_its_layers_in_order(schema: Schema, build: Build) -> None:
    tower = (Dense(name="a", width=3, activation="tanh"), Dense(name="b", width=2))
    bank, x_BN = TowerBank(tower, 4, 5, build), torch.randn(6, 5)
    rows = context(schema, x_BN)
    first, second = bank
    assert bank.num_outputs == 2
    assert torch.equal(bank(x_BN, rows), second(first(x_BN, rows), rows))
    assert bank(x_BN, rows).shape == (4, 6, 2)


def test_activations() -> None:
    x = torch.tensor([-1.0, 2.0])
    assert activate(x, None) is x
    assert activate(x, "relu").tolist() == [0.0, 2.0]
    assert torch.equal(activate(x, "tanh"), torch.tanh(x))


def test_dense_is_the_activated_affine_map(schema: Schema) -> None:
    module = Dense(name="t0", width=8, activation="tanh").build(5, Build(schema=schema, seed=1))
    torch.nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    x_BN = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    expected = torch.tanh(x_BN @ module.weight + module.bias)  # type: ignore[operator]
    torch.testing.assert_close(module(x_BN, None), expected)


def test_a_domain_table_has_a_row_per_domain_and_one_for_the_unseen() -> None:
    table = domain_table(3, torch.tensor([1.0, 2.0]))
    assert table.weight.tolist() == [[1.0, 2.0]] * 4
    assert table.rule == "domain"
