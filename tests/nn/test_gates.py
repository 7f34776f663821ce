"""Gates against their formulas, row by row in float64, and their gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.gates import EmbeddingGate, PriorGate, id_fields
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.stages import Stage, StageModule

DOMAIN, USER = slice(0, 8), slice(8, 12)
"""Columns in z, in the order city, age, user, tags, price."""


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(stage: Stage, num_inputs: int, schema: Schema, *, is_random: bool = True) -> StageModule:
    module = stage.build(num_inputs, Build(schema=schema, seed=1))
    if is_random:
        for index, parameter in enumerate(module.parameters()):
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(index))
    return module


def context(schema: Schema, z_BN: torch.Tensor) -> Context:
    domain_B = torch.ones(len(z_BN), dtype=torch.int32)
    return Context(schema=schema, z_BN=z_BN, domain_B=domain_B, indicator_B=domain_B)


def factors(module: StageModule, x: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """γ σ(ReLU(x A + a) A' + a') of one row."""
    names = ("unit.hidden.weight", "unit.hidden.bias", "unit.output.weight", "unit.output.bias")
    first, a, second, b = (module.get_parameter(name).detach().double().numpy() for name in names)
    result: np.ndarray = gamma / (1.0 + np.exp(-(np.maximum(x @ first + a, 0.0) @ second + b)))
    return result


@pytest.mark.parametrize("settings", [{}, {"hidden": 3}, {"gamma": 1.5}])
def test_the_embedding_gate_multiplies_each_number_of_z(schema: Schema, settings: dict[str, float]) -> None:
    module = built(EmbeddingGate(name="gate", **settings), 17, schema)  # type: ignore[arg-type]
    z_BN = random(5, 17, seed=9)
    rows = z_BN.double().numpy()
    gamma = settings.get("gamma", 2.0)
    expected = [factors(module, np.concatenate([z[DOMAIN], z]), gamma) * z for z in rows]
    np.testing.assert_allclose(module(z_BN, context(schema, z_BN)).detach(), expected, rtol=1e-4, atol=1e-6)
    assert module.get_parameter("unit.hidden.weight").shape == (25, settings.get("hidden", 17))


def test_only_e_d_has_a_gradient_through_the_embedding_gate(schema: Schema) -> None:
    module, z_BN = built(EmbeddingGate(name="gate"), 17, schema), random(5, 17, seed=9).requires_grad_()
    module(z_BN, context(schema, z_BN)).sum().backward()
    rows = z_BN.detach().double().numpy()
    delta = np.array([factors(module, np.concatenate([z[DOMAIN], z])) for z in rows])
    assert z_BN.grad is not None
    np.testing.assert_allclose(z_BN.grad[:, 8:], delta[:, 8:], rtol=1e-4)
    assert (np.abs(z_BN.grad[:, DOMAIN].numpy() - delta[:, DOMAIN]) > 1e-3).any(0).all()


@pytest.mark.parametrize(("prior", "index"), [("ids", USER), ("domain", DOMAIN)])
def test_the_prior_gate_multiplies_the_inputs_of_a_layer(schema: Schema, prior: str, index: slice) -> None:
    module = built(PriorGate(name="gate", prior=prior), 6, schema)  # type: ignore[arg-type]
    z_BN, x_BN = random(5, 17, seed=9), random(5, 6, seed=8)
    rows = zip(z_BN.double().numpy(), x_BN.double().numpy(), strict=True)
    expected = [factors(module, np.concatenate([z[index], z])) * x for z, x in rows]
    actual = module(x_BN, context(schema, z_BN)).detach()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_only_the_prior_has_a_gradient_through_the_prior_gate(schema: Schema) -> None:
    module = built(PriorGate(name="gate"), 6, schema)
    z_BN, x_BN = random(5, 17, seed=9).requires_grad_(), random(5, 6, seed=8)
    module(x_BN, context(schema, z_BN)).sum().backward()
    assert z_BN.grad is not None
    touched = (z_BN.grad != 0.0).all(0)
    assert touched.tolist() == [False] * 8 + [True] * 4 + [False] * 5


def test_the_prior_gate_reads_the_gated_embeddings(schema: Schema) -> None:
    first, second = built(EmbeddingGate(name="a"), 17, schema), built(PriorGate(name="b"), 6, schema)
    z_BN, x_BN = random(5, 17, seed=9), random(5, 6, seed=8)
    given = context(schema, z_BN)
    o = first(z_BN, given).detach().double().numpy()
    rows = zip(z_BN.double().numpy(), o, x_BN.double().numpy(), strict=True)
    expected = [factors(second, np.concatenate([z[USER], o])) * x for z, o, x in rows]
    np.testing.assert_allclose(second(x_BN, given).detach(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(given.z_BN, z_BN)


def test_under_bf16_factors_are_computed_in_float32(schema: Schema) -> None:
    module, z_BN = built(EmbeddingGate(name="gate", gamma=3.0), 17, schema), random(5, 17, seed=9)
    unit, hidden_outputs = module.get_submodule("unit"), []
    unit.get_submodule("hidden").register_forward_hook(
        lambda _, __, output: hidden_outputs.append(output.detach())
    )
    with torch.autocast("cpu", torch.bfloat16):
        actual = unit(random(5, 25, seed=8), context(schema, z_BN)).detach()
    (hidden_BN,) = hidden_outputs
    assert (hidden_BN.dtype, actual.dtype) == (torch.bfloat16, torch.float32)
    weight, bias = (unit.get_parameter(f"output.{kind}").detach().double() for kind in ("weight", "bias"))
    expected = 3.0 * torch.sigmoid(hidden_BN.double() @ weight + bias)
    torch.testing.assert_close(actual, expected.float(), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("stage", [EmbeddingGate(name="gate"), PriorGate(name="gate")])
def test_a_gate_starts_as_the_identity(schema: Schema, stage: Stage) -> None:
    module, z_BN = built(stage, 17, schema, is_random=False), random(5, 17, seed=9)
    assert torch.equal(module(z_BN, context(schema, z_BN)), z_BN)


def field(name: str, role: str, size: int, kind: str = "categorical") -> FieldShape:
    return FieldShape(name=name, kind=kind, role=role, size=size)  # type: ignore[arg-type]


def test_the_id_of_each_role_is_the_field_with_the_most_ids(schema: Schema) -> None:
    fields = (
        field("page", "context", 900),
        field("shop_stars", "shop", 20),
        field("shop_id", "shop", 300),
        field("shop_score", "shop", 500, "numeric"),
        field("words", "query", 800),
        field("age", "user", 9),
        field("user_id", "user", 700),
        field("zip", "user", 700),
        field("tags", "item", 999, "multi_valued"),
        field("item_id", "item", 50),
        field("campaign", "ad", 5),
    )
    assert id_fields(replace(schema, fields=fields)) == ("user_id", "item_id", "shop_id", "campaign")
    assert id_fields(replace(schema, fields=fields, hidden=("user_id",)))[0] == "zip"


def test_domain_features_are_not_id_fields(schema: Schema) -> None:
    fields = (field("page", "user", 900), field("user_id", "user", 700), field("item_id", "item", 50))
    shape = replace(schema, fields=fields, domain_features=("page",))
    assert id_fields(shape) == ("user_id", "item_id")
    assert id_fields(replace(shape, fields=(fields[0], fields[2]))) == ("item_id",)
    with pytest.raises(SettingError, match=r"no domain feature.*roles of the one-id fields: none"):
        id_fields(replace(shape, fields=fields[:1]))


def test_without_id_fields_the_prior_of_ids_is_refused(schema: Schema) -> None:
    nameless = replace(schema, fields=tuple(replace(field, role="other") for field in schema.fields))
    stage = PriorGate(name="gate")
    with pytest.raises(SettingError, match=r"roles of the one-id fields: other.*ppnet_prior=domain"):
        stage.build(17, Build(schema=nameless, seed=1))
    assert replace(stage, prior="domain").build(17, Build(schema=nameless, seed=1)).num_outputs == 17
