"""Normalization of hidden layers, before their activation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.layer_output import LayerOutput, Regularization, TowerNorm
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Dense, DenseBank

NORMS: tuple[TowerNorm, ...] = ("batch", "layer")


@pytest.fixture
def context(schema: Schema) -> Context:
    indicator_B = torch.ones(3, dtype=torch.int32)
    return Context(schema=schema, z_BN=torch.zeros(3, 1), domain_B=indicator_B, indicator_B=indicator_B)


def test_products_are_normalized_by_the_batch_before_the_activation(context: Context) -> None:
    output = LayerOutput("relu", Regularization(norm="batch"), 2)
    x_BM = torch.tensor([[1.0, 10.0], [3.0, 10.0], [5.0, 16.0]])
    # Means 3 and 12; biased variances 8/3 and 8.
    first = np.array([-2.0, 0.0, 2.0]) / np.sqrt(8 / 3 + 1e-5)
    second = np.array([-2.0, -2.0, 4.0]) / np.sqrt(8.0 + 1e-5)
    expected = np.maximum(np.stack([first, second], axis=1), 0.0)
    np.testing.assert_allclose(output(x_BM, context).detach(), expected, rtol=1e-5, atol=1e-6)


def test_products_are_normalized_by_the_row(context: Context) -> None:
    output = LayerOutput("tanh", Regularization(norm="layer"), 2)
    x_BM = torch.tensor([[1.0, 3.0], [5.0, 5.0], [4.0, 2.0]])
    unit = 1.0 / np.sqrt(1.0 + 1e-5)
    expected = np.tanh([[-unit, unit], [0.0, 0.0], [unit, -unit]])
    np.testing.assert_allclose(output(x_BM, context).detach(), expected, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_layers_side_by_side_are_normalized_one_by_one(
    norm: TowerNorm, schema: Schema, context: Context
) -> None:
    regularization = Regularization(norm=norm)
    dense = Dense(name="bank", width=4, activation="tanh", regularization=regularization)
    bank = DenseBank(dense, 2, 5, Build(schema=schema, seed=1))
    for parameter in bank.output.parameters():
        torch.nn.init.normal_(parameter)
    x_BN = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    together_KBM = bank(x_BN, context)
    parts = {
        name: value.view(2, -1) for name, value in bank.output.state_dict().items() if value.numel() == 8
    }
    for k in range(2):
        alone = LayerOutput("tanh", regularization, 4)
        own = {name: parts[name][k] for name in ("norm.scale", "norm.shift")}
        alone.load_state_dict(own, strict=False)
        torch.testing.assert_close(together_KBM[k], alone(x_BN @ bank.weight[k] + bank.bias[k], context))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["plain", "shared_bottom", "mmoe", "saml", "m3oe"])
def test_in_scoring_a_row_does_not_depend_on_others(
    method: str, norm: str, build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model = build_model(f"{method}[tower_norm={norm}]")
    model.train()(data.slice(0, 80))
    with torch.no_grad():
        in_batch, alone = (model.eval()(data.slice(0, size)) for size in (50, 1))
    torch.testing.assert_close(in_batch[:1], alone, rtol=1e-4, atol=1e-5)


def test_branches_of_other_domains_are_read_as_in_scoring(context: Context) -> None:
    output = LayerOutput("tanh", Regularization(norm="batch", dropout=0.5), 2)
    x_PBM = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1))
    output(x_PBM[0], context)
    scored_PBM = output.score(x_PBM, context)
    output.eval()
    torch.testing.assert_close(scored_PBM, torch.stack([output(x_BM, context) for x_BM in x_PBM]))


def test_the_spread_of_initial_embeddings(build_model: Callable[..., CTRModel]) -> None:
    usual, small = build_model(), build_model("plain[embedding_std=1e-4]")
    expected = usual.embedding.table.weight * (1e-4 / 0.05)
    torch.testing.assert_close(small.embedding.table.weight, expected, rtol=1e-5, atol=1e-9)
