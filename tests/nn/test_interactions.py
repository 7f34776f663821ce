"""Stages of feature interactions, against loops in float64 that go through rows, fields and pairs one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
import torch

from ctrbench.errors import SettingError
from ctrbench.nn.interactions import (
    AsEmbedded,
    BilinearFusion,
    Branch,
    CompressedInteraction,
    CrossMix,
    FactorizationMachine,
    FeatureGate,
    FieldAttention,
    FieldProducts,
    FieldVectors,
    FirstOrder,
    ScaledCross,
)
from ctrbench.nn.model import Context
from ctrbench.nn.plan import Build, Dense, Schema, Stage, StageModule
from ctrbench.nn.stages import Cross

ROWS, EMBEDDED = 6, 4
"""Of the shared schema: city, age, user and tags are embedded, 4 numbers each, then comes one plain number."""

Array = np.ndarray
STAGES: tuple[Stage, ...] = (
    FirstOrder(name="s"),
    FactorizationMachine(name="s"),
    FieldProducts(name="s", products="both"),
    FieldAttention(name="s", layers=2, heads=2, head_size=3),
    CompressedInteraction(name="s", widths=(6, 4, 3)),
    FeatureGate(name="s", role="user", hidden=5),
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(stage: Stage, num_inputs: int, schema: Schema) -> StageModule:
    """Build a stage, with random numbers for parameters that may start at zero."""
    module = stage.build(num_inputs, Build(schema=schema, seed=1))
    for place, parameter in enumerate(module.parameters()):
        parameter.data = drawn(*parameter.shape, seed=100 + place)
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


def fields(row: Array, vectors: Array) -> list[Array]:
    """Cut a row of z into its fields; the last is the plain number times its vector."""
    return [*row[:-1].reshape(EMBEDDED, 4), row[-1] * vectors[0]]


def check_rows(module: StageModule, schema: Schema, expected: Iterator[Array] | list[Array]) -> None:
    found = run(module, drawn(ROWS, schema.num_inputs), schema)
    np.testing.assert_allclose(found, np.stack(list(expected)), rtol=2e-4, atol=2e-4)


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


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_inputs_of_another_width_are_refused(stage: Stage, schema: Schema) -> None:
    with pytest.raises(SettingError, match=r"fields of the input vector.*18 inputs, not 17"):
        stage.build(18, Build(schema=schema, seed=1))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_second_derivatives_exist(stage: Stage, schema: Schema) -> None:
    module = made(stage, schema.num_inputs, schema).double()
    x_BN = drawn(2, schema.num_inputs).double().requires_grad_()
    context_ = context(schema, x_BN, drawn(2, EMBEDDED).double())
    assert torch.autograd.gradgradcheck(lambda x: module(x, context_), (x_BN,))


def test_first_order_adds_weights_of_ids_and_numbers(schema: Schema) -> None:
    module = made(FirstOrder(name="s"), 17, schema)
    weight, ids = numbers(module)["weight"], drawn(ROWS, EMBEDDED, seed=7).double().numpy()
    pairs = zip(ids, rows(schema), strict=True)
    check_rows(module, schema, [np.array([own.sum() + row[-1] * weight[0, 0]]) for own, row in pairs])


def test_first_order_starts_at_zero(schema: Schema) -> None:
    module = FirstOrder(name="s").build(17, Build(schema=schema, seed=1))
    assert numbers(module)["weight"].tolist() == [[0.0]]


def test_first_order_needs_a_plan_that_has_it(schema: Schema) -> None:
    module = made(FirstOrder(name="s"), 17, schema)
    with pytest.raises(AssertionError, match="first_order=True"):
        module(drawn(2, 17), context(schema, drawn(2, 17)))


def test_factorization_machine_sums_products_of_pairs(schema: Schema) -> None:
    module = made(FactorizationMachine(name="s"), 17, schema)
    vectors = numbers(module)["fields.numbers"]
    pairs = [combinations(fields(row, vectors), 2) for row in rows(schema)]
    check_rows(module, schema, [np.array([sum(a @ b for a, b in of_row)]) for of_row in pairs])


@pytest.mark.parametrize("products", ["inner", "outer", "both"])
def test_products_stand_beside_the_inputs(products: str, schema: Schema) -> None:
    module = made(FieldProducts(name="s", products=products), 17, schema)  # type: ignore[arg-type]
    vectors = numbers(module)["fields.numbers"]

    def expected(row: Array) -> Array:
        own = fields(row, vectors)
        total = np.sum(own, axis=0)
        inner = [a @ b for a, b in combinations(own, 2)] if products != "outer" else []
        outer = [a * b for a, b in combinations_with_replacement(total, 2)] if products != "inner" else []
        return np.concatenate([row, inner, outer])

    check_rows(module, schema, [expected(row) for row in rows(schema)])


def attention_by_hand(own: list[Array], weight: Array, heads: int, size: int) -> list[Array]:
    query, key, value, rest = np.split(weight, 4, axis=1)
    made_of = []
    for field in own:
        parts = []
        for head in range(heads):
            columns = slice(head * size, (head + 1) * size)
            scores = np.array([(field @ query[:, columns]) @ (other @ key[:, columns]) for other in own])
            share = np.exp(scores - scores.max())
            share /= share.sum()
            parts.append(sum(a * (other @ value[:, columns]) for a, other in zip(share, own, strict=True)))
        made_of.append(np.maximum(np.concatenate(parts) + field @ rest, 0.0))
    return made_of


def test_attention_mixes_fields_head_by_head(schema: Schema) -> None:
    module = made(FieldAttention(name="s", layers=2, heads=2, head_size=3), 17, schema)
    for parameter in module.parameters():
        parameter.data *= 0.5
    weights = numbers(module)
    assert weights["weights.0"].shape == (4, 4 * 6)
    assert weights["weights.1"].shape == (6, 4 * 6)

    def expected(row: Array) -> Array:
        own = fields(row, weights["fields.numbers"])
        for layer in range(2):
            own = attention_by_hand(own, weights[f"weights.{layer}"], heads=2, size=3)
        return np.concatenate(own)

    check_rows(module, schema, [expected(row) for row in rows(schema)])


def cin_by_hand(own: list[Array], weights: list[Array], *, split_half: bool) -> Array:
    maps, sums = own, []
    for layer, weight in enumerate(weights):
        new = [
            sum(weight[i, j, h] * maps[i] * own[j] for i in range(len(maps)) for j in range(len(own)))
            for h in range(weight.shape[2])
        ]
        is_split = split_half and layer < len(weights) - 1
        half = len(new) // 2 if is_split else 0
        sums += [one.sum() for one in new[half:]]
        maps = new[:half] if is_split else new
    return np.array(sums)


@pytest.mark.parametrize("split_half", [False, True])
@pytest.mark.parametrize("widths", [(3,), (4, 3), (4, 6, 2)])
def test_compressed_interactions(widths: tuple[int, ...], split_half: bool, schema: Schema) -> None:
    module = made(CompressedInteraction(name="s", widths=widths, split_half=split_half), 17, schema)
    for parameter in module.parameters():
        parameter.data *= 0.3
    found = numbers(module)
    weights = [found[f"weights.{layer}"] for layer in range(len(widths))]
    assert weights[0].shape == (5, 5, widths[0])
    expected = [
        cin_by_hand(fields(row, found["fields.numbers"]), weights, split_half=split_half)
        for row in rows(schema)
    ]
    check_rows(module, schema, expected)


@pytest.mark.parametrize(("role", "columns"), [("user", [*range(4, 12)]), ("item", [*range(12, 17)])])
def test_a_gate_sees_the_fields_of_its_role(role: str, columns: list[int], schema: Schema) -> None:
    module = made(FeatureGate(name="s", role=role, hidden=5), 17, schema)
    weight = numbers(module)

    def expected(row: Array) -> Array:
        hidden = np.maximum(row[columns] @ weight["mlp.0.weight"] + weight["mlp.0.bias"], 0.0)
        gate = hidden @ weight["mlp.1.weight"] + weight["mlp.1.bias"]
        return row * 2.0 / (1.0 + np.exp(-gate))

    check_rows(module, schema, [expected(row) for row in rows(schema)])


@pytest.mark.parametrize("role", [None, "shop"])
def test_without_fields_of_the_role_a_gate_learns_what_it_sees(role: str | None, schema: Schema) -> None:
    module = made(FeatureGate(name="s", role=role, hidden=5), 17, schema)
    weight = numbers(module)
    hidden = np.maximum(weight["learned"][0] @ weight["mlp.0.weight"] + weight["mlp.0.bias"], 0.0)
    gate = 2.0 / (1.0 + np.exp(-(hidden @ weight["mlp.1.weight"] + weight["mlp.1.bias"])))
    check_rows(module, schema, [row * gate for row in rows(schema)])


def test_what_a_gate_learns_does_not_start_at_zero(schema: Schema) -> None:
    module = FeatureGate(name="s", role=None, hidden=5).build(17, Build(schema=schema, seed=1))
    module(drawn(3, 17), context(schema, drawn(3, 17))).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_hidden_fields_are_no_fields_of_a_role(schema: Schema) -> None:
    schema = replace(schema, hidden=("age",))
    module = FeatureGate(name="s", role="user", hidden=5).build(13, Build(schema=schema, seed=1))
    assert module.get_parameter("mlp.0.weight").shape == (4, 5)


def test_as_embedded_undoes_stages_at_the_input(schema: Schema) -> None:
    module, z_BN = AsEmbedded(name="s").build(3, Build(schema=schema, seed=1)), drawn(2, 17)
    assert module(drawn(2, 3), context(schema, z_BN)) is z_BN
    assert module.num_outputs == 17


def test_a_branch_runs_its_stages_in_order(schema: Schema) -> None:
    dense = (Dense(name="a", width=3, activation="relu"), Dense(name="b", width=2))
    module, x_BN = made(Branch(name="s", stages=dense), 4, schema), drawn(ROWS, 4)
    weight, x = numbers(module), x_BN.double().numpy()
    hidden = np.maximum(x @ weight["stages.0.weight"] + weight["stages.0.bias"], 0.0)
    expected = hidden @ weight["stages.1.weight"] + weight["stages.1.bias"]
    np.testing.assert_allclose(run(module, x_BN, schema), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2])
def test_fusion_adds_a_bilinear_sum(heads: int, schema: Schema) -> None:
    module, x_BN = made(BilinearFusion(name="s", width=6, heads=heads), 10, schema), drawn(ROWS, 10)
    weight = numbers(module)["weight"]
    assert weight.shape == (heads, 6 // heads, 4 // heads)

    def expected(row: Array) -> Array:
        parts = zip(np.split(row[:6], heads), np.split(row[6:], heads), weight, strict=True)
        return np.append(row, sum(left @ own @ right for left, right, own in parts))

    found = run(module, x_BN, schema)
    np.testing.assert_allclose(found, [expected(row) for row in x_BN.double().numpy()], rtol=1e-4, atol=1e-4)


def test_streams_that_heads_do_not_divide_are_refused(schema: Schema) -> None:
    with pytest.raises(SettingError, match="widths 6 and 3, 2 heads"):
        BilinearFusion(name="s", width=6, heads=2).build(9, Build(schema=schema, seed=1))


@pytest.mark.parametrize("rank", [None, 2])
def test_scaled_cross_adds_to_the_diagonal(rank: int | None, schema: Schema) -> None:
    stage = ScaledCross(name="cross", layers=2, rank=rank, diag_scale=0.7)
    module, x_BN = made(stage, 4, schema), drawn(ROWS, 4)
    weight = numbers(module)

    def expected(row: Array) -> Array:
        x = row
        for layer in range(2):
            kernel = weight[f"kernels.{layer}.0"]
            kernel = kernel @ weight[f"kernels.{layer}.1"] if rank else kernel
            x = row * (x @ (kernel + 0.7 * np.eye(4)) + weight[f"biases.{layer}"]) + x
        return x

    found = run(module, x_BN, schema)
    np.testing.assert_allclose(found, [expected(row) for row in x_BN.double().numpy()], rtol=1e-4, atol=1e-4)


def test_scaled_cross_starts_from_the_kernels_of_cross(schema: Schema) -> None:
    build = Build(schema=schema, seed=1)
    scaled = ScaledCross(name="cross", layers=2, diag_scale=0.5).build(5, build)
    plain = Cross(name="cross", layers=2).build(5, build)
    assert all(torch.equal(a, b) for a, b in zip(scaled.parameters(), plain.parameters(), strict=True))


def test_a_mixture_of_low_rank_experts(schema: Schema) -> None:
    module, x_BN = made(CrossMix(name="s", layers=2, experts=3, rank=2), 5, schema), drawn(ROWS, 5)
    weight = numbers(module)
    g = np.tanh

    def layer(row: Array, x: Array, part: str) -> Array:
        down = np.split(weight[f"{part}.down"], 3, axis=1)
        up, core = np.split(weight[f"{part}.up"], 3), weight[f"{part}.core"]
        scores = np.exp(x @ weight[f"{part}.gate"])
        experts = [row * (g(g(x @ down[k]) @ core[k]) @ up[k] + weight[f"{part}.bias"]) for k in range(3)]
        return sum(s * e for s, e in zip(scores / scores.sum(), experts, strict=True)) + x

    expected = [layer(row, layer(row, row, "layers.0"), "layers.1") for row in x_BN.double().numpy()]
    np.testing.assert_allclose(run(module, x_BN, schema), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("num_inputs", "rank"), [(17, 4), (3, 1)])
def test_the_rank_of_experts_is_a_quarter_of_the_inputs(num_inputs: int, rank: int, schema: Schema) -> None:
    module = CrossMix(name="s", layers=1, experts=2).build(num_inputs, Build(schema=schema, seed=1))
    assert module.get_parameter("layers.0.core").shape == (2, rank, rank)


def test_experts_start_apart(schema: Schema) -> None:
    module = CrossMix(name="s", layers=1, experts=2, rank=2).build(6, Build(schema=schema, seed=1))
    for name in ("down", "core", "up"):
        weight = module.get_parameter(f"layers.0.{name}")
        first, second = weight.chunk(2, dim=1 if name == "down" else 0)
        assert not torch.equal(first, second)
    assert not module.get_parameter("layers.0.bias").any()
