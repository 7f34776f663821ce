"""Normalization by the batch and by the row, against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.norms import BatchNorm, BatchNormModule, LayerNorm
from ctrbench.nn.schema import Schema


@pytest.fixture
def build(schema: Schema) -> Build:
    return Build(schema=schema, seed=1)


def context(schema: Schema, x_BN: torch.Tensor, indicator: list[int] | None = None) -> Context:
    indicator_B = torch.tensor(indicator or [1] * len(x_BN), dtype=torch.int32)
    return Context(schema=schema, z_BN=x_BN, domain_B=indicator_B, indicator_B=indicator_B)


def batch_norm(schema: Schema, **settings: float) -> BatchNormModule:
    module = BatchNorm(name="bn", **settings).build(2, Build(schema=schema, seed=1))
    assert isinstance(module, BatchNormModule)
    with torch.no_grad():
        module.scale.copy_(torch.tensor([2.0, 3.0]))
        module.shift.copy_(torch.tensor([1.0, -1.0]))
    return module


def test_batch_norm_uses_moments_of_the_batch_in_training(schema: Schema) -> None:
    module = batch_norm(schema, eps=0.5)
    x_BN = torch.tensor([[1.0, 10.0], [3.0, 10.0], [5.0, 16.0]])
    # Means 3 and 12; biased variances 8/3 and 8.
    first = 2.0 * np.array([-2.0, 0.0, 2.0]) / np.sqrt(8 / 3 + 0.5) + 1.0
    second = 3.0 * np.array([-2.0, -2.0, 4.0]) / np.sqrt(8.0 + 0.5) - 1.0
    np.testing.assert_allclose(module(x_BN, context(schema, x_BN)).detach().T, [first, second], rtol=1e-5)


def test_running_moments_are_averages_until_eta_is_larger(schema: Schema) -> None:
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


def test_a_single_row_is_normalized_with_running_moments(schema: Schema) -> None:
    module, x_BN = batch_norm(schema), torch.tensor([[4.0, -1.0]])
    actual = module.train()(x_BN, context(schema, x_BN))
    assert actual.tolist()[0] == pytest.approx([2.0 * 4.0 + 1.0, 3.0 * -1.0 - 1.0], rel=1e-4)
    assert module.batches == 0.0


def test_a_constant_column_is_zero_with_running_moments(schema: Schema) -> None:
    # The second column is one number in each batch and moves from batch to batch, as a lone domain's embedding does.
    module = batch_norm(schema)
    for k in range(40):
        x_BN = torch.tensor([[0.0, 0.05 + 0.001 * k], [4.0, 0.05 + 0.001 * k]])
        module(x_BN, context(schema, x_BN))
    assert module.variance[1] < 1e-10
    x_BN = torch.tensor([[2.0, 0.089], [0.0, 0.5]])
    for rows_BN in (x_BN, x_BN[:1]):
        actual = module.train(len(rows_BN) == 1)(rows_BN, context(schema, rows_BN))
        np.testing.assert_allclose(actual[:, 1].detach(), -1.0, atol=1e-6)
    actual = module.eval()(x_BN, context(schema, x_BN))
    np.testing.assert_allclose(actual[:, 0].detach(), [1.0, 1.0 - 4.0 / np.sqrt(8.0)], atol=1e-4)


@pytest.mark.parametrize(("std", "is_constant"), [(5e-5, True), (2e-4, False)])
def test_a_column_is_constant_below_a_thousandth_of_eps(
    schema: Schema, std: float, is_constant: bool
) -> None:
    module = batch_norm(schema)
    module.variance.copy_(torch.tensor([std**2, 1.0]))
    x_BN = torch.tensor([[0.01, 0.0]])
    actual = module.eval()(x_BN, context(schema, x_BN))[0, 0].item()
    assert actual == pytest.approx(1.0 + (0.0 if is_constant else 2.0 * 0.01 / np.sqrt(1e-5 + std**2)))


def test_layer_norm_uses_moments_of_the_row(schema: Schema, build: Build) -> None:
    module = LayerNorm(name="ln", eps=0.5).build(3, build)
    torch.nn.init.constant_(module.get_parameter("scale"), 2.0)
    x_BN = torch.tensor([[1.0, 2.0, 6.0]])
    # Mean 3, biased variance 14/3.
    expected = 2.0 * np.array([-2.0, -1.0, 3.0]) / np.sqrt(14 / 3 + 0.5)
    np.testing.assert_allclose(module(x_BN, context(schema, x_BN))[0].detach(), expected, rtol=1e-5)
