"""Fields, the linear logit and cross layers, against numbers computed by hand and in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.interactions import Cross, FieldVectors, FirstOrder
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Stage, StageModule

ROWS, EMBEDDED = 6, 4
"""Of the shared schema: city, age, user and tags are embedded, 4 numbers each, then comes one plain number."""

Array = np.ndarray


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(stage: Stage, num_inputs: int, schema: Schema) -> StageModule:
    """Build a stage, with random numbers for parameters that may start at zero."""
    module = stage.build(num_inputs, Build(schema=schema, seed=1))
    for index, parameter in enumerate(module.parameters()):
        parameter.data = drawn(*parameter.shape, seed=100 + index)
    return module


def context(schema: Schema, z_BN: torch.Tensor, first_order_BF: torch.Tensor | None = None) -> Context:
    ids_B = torch.ones(len(z_BN), dtype=torch.int32)
    return Context(schema=schema, z_BN=z_BN, domain_B=ids_B, indicator_B=ids_B, first_order_BF=first_order_BF)


def run(module: StageModule, x_BN: torch.Tensor, schema: Schema) -> Array:
    output_BM = module(x_BN, context(schema, x_BN, drawn(len(x_BN), EMBEDDED, seed=7)))
    assert output_BM.shape == (len(x_BN), module.num_outputs)
    return np.asarray(output_BM.detach().numpy())


def numbers(module: StageModule) -> dict[str, Array]:
    return {name: value.detach().double().numpy() for name, value in module.named_parameters()}


def check_rows(module: StageModule, schema: Schema, expected: Iterator[Array] | list[Array]) -> None:
    actual = run(module, drawn(ROWS, schema.num_inputs), schema)
    np.testing.assert_allclose(actual, np.stack(list(expected)), rtol=2e-4, atol=2e-4)


def rows(schema: Schema) -> Array:
    return np.asarray(drawn(ROWS, schema.num_inputs).double().numpy())


def test_a_plain_number_is_a_field_of_its_vector_times_the_number(schema: Schema) -> None:
    vectors = FieldVectors("s", schema.num_inputs, Build(schema=schema, seed=1))
    assert vectors.numbers is not None
    assert vectors.numbers.shape == (1, 4)
    assert vectors.num_fields == 5
    x_BN = drawn(3, schema.num_inputs)
    fields_BFE = vectors(x_BN)
    assert torch.equal(fields_BFE[:, :4].flatten(1), x_BN[:, :16])
    assert torch.equal(fields_BFE[:, 4], x_BN[:, 16:] * vectors.numbers)


def test_without_plain_numbers_fields_are_the_embeddings(schema: Schema) -> None:
    schema = replace(schema, hidden=("price",))
    vectors = FieldVectors("s", 16, Build(schema=schema, seed=1))
    assert list(vectors.parameters()) == []
    assert vectors(drawn(2, 16)).shape == (2, 4, 4)


def test_first_order_sums_weights_of_ids_and_numbers(schema: Schema) -> None:
    module = made(FirstOrder(name="s"), 17, schema)
    weight, ids = numbers(module)["weight"], drawn(ROWS, EMBEDDED, seed=7).double().numpy()
    pairs = zip(ids, rows(schema), strict=True)
    check_rows(module, schema, [np.array([own.sum() + row[-1] * weight[0, 0]]) for own, row in pairs])


def test_first_order_starts_at_zero(schema: Schema) -> None:
    module = FirstOrder(name="s").build(17, Build(schema=schema, seed=1))
    assert numbers(module)["weight"].tolist() == [[0.0]]


def test_first_order_needs_a_plan_with_first_order_weights(schema: Schema) -> None:
    module = made(FirstOrder(name="s"), 17, schema)
    with pytest.raises(SettingError, match="set first_order=True on the plan"):
        module(drawn(2, 17), context(schema, drawn(2, 17)))


def cross_of(schema: Schema, num_inputs: int, layers: int = 1, rank: int | None = None) -> StageModule:
    return Cross(name="cross", layers=layers, rank=rank).build(num_inputs, Build(schema=schema, seed=1))


def test_cross_layer_multiplies_its_bias_by_x0(schema: Schema) -> None:
    cross = cross_of(schema, 2)
    with torch.no_grad():
        cross.get_parameter("kernels.0.0").copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        cross.get_parameter("biases.0").copy_(torch.tensor([0.5, -1.0]))
    # x W = (11, 16); with the bias (11.5, 15); times x_0 = (2, 3), plus x.
    assert run(cross, torch.tensor([[2.0, 3.0]]), schema).tolist() == [[25.0, 48.0]]


def test_cross_layer_of_low_rank_is_the_product_of_its_factors(schema: Schema) -> None:
    cross = cross_of(schema, 2, rank=1)
    with torch.no_grad():
        cross.get_parameter("kernels.0.0").copy_(torch.tensor([[1.0], [2.0]]))
        cross.get_parameter("kernels.0.1").copy_(torch.tensor([[3.0, 4.0]]))
        cross.get_parameter("biases.0").copy_(torch.tensor([0.5, -1.0]))
    # x U = 8; times V^T (24, 32); with the bias (24.5, 31); times x_0, plus x.
    assert run(cross, torch.tensor([[2.0, 3.0]]), schema).tolist() == [[51.0, 96.0]]


def test_cross_layers_multiply_by_the_first_input_each_time(schema: Schema) -> None:
    cross, x_BN = cross_of(schema, 4, layers=3), drawn(5, 4)
    x = expected = x_BN.double().numpy()
    for layer in range(3):
        weight = cross.get_parameter(f"kernels.{layer}.0").detach().double().numpy()
        expected = x * (expected @ weight) + expected
    np.testing.assert_allclose(run(cross, x_BN, schema), expected, rtol=1e-5, atol=1e-6)


def test_wide_cross_kernels_have_a_quarter_of_the_inputs_as_rank(schema: Schema) -> None:
    shapes = sorted(tuple(weight.shape) for weight in cross_of(schema, 1028).parameters())
    assert shapes == [(257, 1028), (1028,), (1028, 257)]
