from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.backbones.dnn import Dnn
from ctrbench.errors import SettingError
from ctrbench.extend import Activation, Build, Context, CTRModel, Dense, Plan, Schema
from ctrbench.methods.apg import Apg, Generated, GeneratedModule, MergedModule, SharedModule
from ctrbench.nn.schema import FieldShape

N, M, K = 6, 4, 3
VERSIONS = ("v1", "v2", "v3", "v4", "v5")
PLACE, AGE = slice(2, 4), slice(6, 8)


def make_schema() -> Schema:
    sizes = {"item": 11, "place": 6, "shop": 11, "age": 5}
    return Schema(
        fields=tuple(
            FieldShape(name=name, kind="categorical", role="other", size=size) for name, size in sizes.items()
        ),
        embedding_size=2,
        domain_features=("place", "age"),
        num_domains=5,
        indicator_rows=(0,) + (1,) * 5,
        base_rate=0.5,
    )


def make_context(num_rows: int = 5) -> Context:
    z = torch.randn(num_rows, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids = torch.ones(num_rows, dtype=torch.int64)
    return Context(schema=make_schema(), z_BN=z, domain_B=ids, indicator_B=ids)


def make_layer(
    version: str = "v5", *, activation: Activation | None = None, **settings: object
) -> GeneratedModule:
    method = Apg.model_validate({"version": version, **settings})
    stage = Generated(name="layer", width=M, activation=activation, settings=method, rank=K, over=7)
    return stage.build(N, Build(schema=make_schema(), seed=1))


def shaken(layer: GeneratedModule) -> GeneratedModule:
    """Give every parameter a value of order one, biases too."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def make_input(num_rows: int = 5) -> torch.Tensor:
    return torch.randn(num_rows, N, generator=torch.Generator().manual_seed(3))


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def domain_embedding(context: Context) -> np.ndarray:
    z = array(context.z_BN)
    return np.concatenate([z[:, PLACE], z[:, AGE]], axis=1)


def generated_by(layer: GeneratedModule, z: np.ndarray) -> np.ndarray:
    return z @ array(layer.generator.weight) + array(layer.generator.bias)


def explicit_weight(layer: GeneratedModule, z: np.ndarray, version: str) -> np.ndarray:
    """W_z of (B, N, M), written out."""
    entries, rows = generated_by(layer, z), len(z)
    if version == "v1":
        return entries.reshape(rows, N, M)
    if version == "v2":
        left, core, right = np.split(entries, [N * K, N * K + K * K], axis=1)
        cores = core.reshape(rows, K, K) + np.eye(K)
        return np.einsum("bnj,bjk,bkm->bnm", left.reshape(rows, N, K), cores, right.reshape(rows, K, M))
    assert isinstance(layer, SharedModule)
    left, right = array(layer.left), array(layer.right)
    if isinstance(layer, MergedModule):
        left, right = left @ array(layer.left_inner), array(layer.right_inner) @ right
    return np.einsum("nj,bjk,km->bnm", left, entries.reshape(rows, K, K) + np.eye(K), right)


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(array(actual), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


# The product.


@pytest.mark.parametrize("version", VERSIONS)
def test_product_is_that_of_the_explicit_matrix(version: str) -> None:
    layer, context, h = shaken(make_layer(version)), make_context(), make_input()
    assert layer.bias is not None
    weight = explicit_weight(layer, domain_embedding(context), version)
    close(layer(h, context), np.einsum("bn,bnm->bm", array(h), weight) + array(layer.bias))


def test_core_without_residual() -> None:
    layer = shaken(make_layer("v4", core_residual=False))
    context, h = make_context(), make_input()
    assert isinstance(layer, SharedModule)
    assert layer.bias is not None
    cores = generated_by(layer, domain_embedding(context)).reshape(-1, K, K)
    expected = np.einsum("bn,nj,bjk,km->bm", array(h), array(layer.left), cores, array(layer.right))
    close(layer(h, context), expected + array(layer.bias))


def test_core_of_chosen_numbers() -> None:
    # (1, 2, 3) (I + G) with G = 10 in row 0, column 2 only: (1, 2, 3 + 10)
    core = torch.zeros(1, 9)
    core[0, 2] = 10.0
    product = make_layer().apply_core(torch.tensor([[1.0, 2.0, 3.0]]), core)
    assert product.tolist() == [[1.0, 2.0, 13.0]]


def test_versions_with_and_without_a_formed_matrix_agree() -> None:
    context, h = make_context(), make_input()
    formed, decomposed = make_layer("v3"), make_layer("v4")
    close(formed(h, context), array(decomposed(h, context)))


def test_merged_factors_agree_with_separate_products() -> None:
    layer, context, h = make_layer(), make_context(), make_input()
    assert isinstance(layer, MergedModule)
    core = layer.generator(context.domain_BE).view(-1, K, K) + torch.eye(K)
    inner = torch.einsum("bj,bjk->bk", h @ layer.left @ layer.left_inner, core)
    unmerged = inner @ layer.right_inner @ layer.right
    left, right = layer.merged()
    merged = torch.einsum("bj,bjk->bk", h @ left, core) @ right
    assert (left.shape, right.shape) == ((N, K), (K, M))
    assert (merged - unmerged).abs().max() < 1e-5
    assert (layer(h, context) - unmerged).abs().max() < 1e-5


def test_activation_comes_last() -> None:
    context, h = make_context(), make_input()
    linear = make_layer()(h, context)
    assert torch.equal(make_layer(activation="tanh")(h, context), torch.tanh(linear))


@pytest.mark.parametrize("version", VERSIONS)
def test_bias_can_be_generated(version: str) -> None:
    layer, context, h = shaken(make_layer(version, generate_bias=True)), make_context(), make_input()
    assert layer.bias is None
    entries = layer.generator(context.domain_BE)
    weight, bias = entries[:, :-M].contiguous(), entries[:, -M:]
    close(layer(h, context), array(layer.multiply(h, weight) + bias))


def test_hidden_layer_of_the_generator() -> None:
    generator = shaken(make_layer(generator_hidden=5)).generator
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    hidden = np.maximum(array(z) @ array(generator.hidden_weight) + array(generator.hidden_bias), 0.0)
    close(generator(z), hidden @ array(generator.weight) + array(generator.bias))


# Starts.


@pytest.mark.parametrize("version", ["v2", "v3", "v4", "v5"])
def test_starts_as_the_static_low_rank_layer(version: str) -> None:
    layer, context, h = make_layer(version), make_context(), make_input()
    torch.nn.init.zeros_(layer.generator.weight)
    if isinstance(layer, SharedModule):
        left, right = layer.merged()
    else:
        left, _, right = torch.split(layer.generator.bias, [N * K, K * K, K * M])
    close(layer(h, context), array(h) @ array(left).reshape(N, K) @ array(right).reshape(K, M))


def test_v1_starts_at_the_weight_of_the_backbone() -> None:
    layer, context, h = make_layer("v1", activation="tanh"), make_context(), make_input()
    torch.nn.init.zeros_(layer.generator.weight)
    dense = Dense(name="layer", width=M, activation="tanh").build(N, Build(schema=make_schema(), seed=1))
    torch.testing.assert_close(layer(h, context), dense(h, context))


def test_generator_starts_at_a_tenth_of_xavier() -> None:
    layer = make_layer("v4")
    bound = 0.1 * (6.0 / (4 + K * K)) ** 0.5
    assert 0.8 * bound < float(layer.generator.weight.detach().abs().max()) <= bound
    assert not layer.generator.bias.any()


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 1.0), ("relu", 2.0**0.5)])
@pytest.mark.parametrize("version", ["v4", "v5"])
def test_factors_start_at_their_scale(version: str, activation: Activation, gain: float) -> None:
    settings = Apg.model_validate({"version": version})
    stage = Generated(name="big", width=300, activation=activation, settings=settings, rank=100, over=200)
    layer = stage.build(400, Build(schema=make_schema(), seed=1))
    scales = {name: float(p.detach().std()) for name, p in layer.named_parameters() if "." not in name}
    expected = {"left": 400**-0.5, "right": gain * 100**-0.5, "bias": 0.0}
    if version == "v5":
        inner = {"left_inner": 200**-0.5, "right_inner": 100**-0.5, "right": gain * 200**-0.5}
        expected |= inner
    assert scales == pytest.approx(expected, rel=0.02)


# Conditions.


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({}, [2, 3, 6, 7]),
        ({"condition": "group"}, [2, 3]),
        ({"condition": "group", "group_feature": "age"}, [6, 7]),
    ],
)
def test_condition_takes_the_embeddings_of_the_domain(
    settings: dict[str, object], columns: list[int]
) -> None:
    layer, context = make_layer(**settings), make_context()
    assert layer.condition.width == len(columns)
    assert torch.equal(layer.condition(make_input(), context), context.z_BN[:, columns])


def test_condition_can_be_the_mean_embedding() -> None:
    layer, context = make_layer(aggregation="average"), make_context()
    mean = (context.z_BN[:, PLACE] + context.z_BN[:, AGE]) / 2
    assert layer.condition.width == 2
    torch.testing.assert_close(layer.condition(make_input(), context), mean)


def test_condition_can_be_the_layers_input() -> None:
    layer, h = make_layer(condition="self"), make_input()
    assert layer.condition.width == N
    assert layer.condition(h, make_context()) is h


@pytest.mark.parametrize("is_detached", [True, False])
def test_condition_can_be_detached(is_detached: bool) -> None:
    layer, context = make_layer(detach_condition=is_detached), make_context()
    layer(make_input(), context).sum().backward()
    assert (context.z_BN.grad is None) == is_detached


def test_group_must_be_a_domain_feature() -> None:
    with pytest.raises(SettingError, match="must be a domain feature: shop"):
        make_layer(condition="group", group_feature="shop")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("condition", ["mix", "self", "group"])
def test_gradient_reaches_every_parameter(version: str, condition: str) -> None:
    layer = make_layer(version, condition=condition, generator_hidden=8)
    layer(make_input(), make_context()).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in layer.parameters())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_score_of_a_row_does_not_depend_on_its_batch(version: str) -> None:
    layer, context, h = make_layer(version), make_context(), make_input()
    alone = layer(h[2:3], context.part(slice(2, 3)))
    torch.testing.assert_close(alone, layer(h, context)[2:3])


# The plan.


def generated_layers(plan: Plan) -> list[GeneratedModule]:
    model = CTRModel(plan, make_schema(), seed=1)
    return [module for module in model.modules() if isinstance(module, GeneratedModule)]


@pytest.mark.parametrize("plan", [Dnn().plan(), Dcnv2().plan(), Dcnv2(structure="stacked").plan()])
def test_hidden_layers_are_generated_and_nothing_else(plan: Plan) -> None:
    edited = Apg().rewrite(plan)
    assert [type(stage) for stage in edited.tower] == [Generated] * 3
    assert (edited.head, edited.interactions) == (plan.head, plan.interactions)
    assert [stage.name for stage in edited.tower] == [stage.name for stage in plan.tower]


def test_rank_is_clipped_to_the_widths_of_a_layer() -> None:
    plan = Apg().rewrite(Dnn(hidden=(20, 18, 4)).plan())
    assert [layer.rank for layer in generated_layers(plan)] == [8, 16, 4]


def test_rank_and_over_can_be_given_for_each_layer() -> None:
    layers = generated_layers(Apg(rank=(4, 3), over=(12, 9)).rewrite(Dnn(hidden=(6, 5)).plan()))
    shapes = [tuple(layer.left_inner.shape) for layer in layers if isinstance(layer, MergedModule)]
    assert shapes == [(12, 4), (9, 3)]


@pytest.mark.parametrize(
    ("method", "plan", "reason"),
    [
        (Apg(), Plan(tower=(), head=Dnn.output()), "this plan has none"),
        (Apg(rank=(4, 3)), Dnn(hidden=(8, 8, 8)).plan(), "each of the 3 hidden layers"),
    ],
)
def test_plans_with_other_numbers_of_layers_are_refused(method: Apg, plan: Plan, reason: str) -> None:
    assert reason in (method.supports(plan) or "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": (200,)}, "over must not be below rank"),
        ({"rank": (4, 4), "over": (8, 8, 8)}, "equal lengths"),
        ({"version": "v4", "over": (64,)}, "over has no effect"),
        ({"version": "v1", "rank": (8,)}, "rank has no effect"),
        ({"version": "v1", "core_residual": False}, "core_residual has no effect"),
        ({"group_feature": "age"}, "group_feature has no effect"),
        ({"condition": "self", "aggregation": "average"}, "aggregation has no effect"),
        ({"rank": (0,)}, "greater than or equal to 1"),
        ({"rank": ()}, "at least 1 item"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Apg.model_validate(settings)
