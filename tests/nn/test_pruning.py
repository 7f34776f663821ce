"""The pruning gate, with a slope of its own and without a penalty, against its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.kernels.gate import GateSettings, Number
from ctrbench.nn.pruning import PruningGateModule
from ctrbench.nn.schema import FieldShape, Schema

DOMAIN_COLUMNS = [2, 3, 6, 7]
FUSION = GateSettings(ceiling=2.0, threshold=0.25)


@pytest.fixture
def schema() -> Schema:
    """Four fields of width 2; the second and the fourth are domain features."""
    fields = [
        FieldShape(name=name, kind="categorical", role="other", size=size)
        for name, size in {"item": 11, "place": 6, "shop": 11, "age": 5}.items()
    ]
    return Schema(
        fields=tuple(fields),
        embedding_size=2,
        domain_features=("place", "age"),
        num_domains=5,
        indicator_rows=(0,) + (1,) * 5,
        base_rate=0.5,
    )


class Pruning(PruningGateModule):
    """A gate of constant slope that records the pruned share."""

    @property
    def slope(self) -> torch.Tensor:
        return torch.tensor(5.0)

    def penalty(self, ratio: Number) -> tuple[Number, Number]:
        return ratio * 0.0, ratio * 0.0

    def record(self, penalty: torch.Tensor, pruned: torch.Tensor, context: Context) -> None:
        context.logs[self.name] = pruned


@pytest.fixture
def context(schema: Schema) -> Context:
    """Three rows of one domain."""
    return Context(
        schema=schema,
        z_BN=torch.randn(3, 8, generator=torch.Generator().manual_seed(0), requires_grad=True),
        domain_B=torch.ones(3, dtype=torch.int32),
        indicator_B=torch.ones(3, dtype=torch.int32),
    )


@pytest.fixture
def hidden_BN() -> torch.Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)


def make(
    schema: Schema,
    gate: GateSettings = FUSION,
    *,
    takes_hidden: bool = True,
    scale: float = 1.0,
    columns: torch.Tensor | None = None,
) -> Pruning:
    build = Build(schema=schema, seed=1)
    return Pruning(
        "gate", gate, 6, build, num_sites=1, takes_hidden=takes_hidden, scale=scale, columns=columns
    )


def same_domain(context: Context) -> Context:
    """The context with equal domain embeddings in all rows."""
    return replace(context, z_BN=context.z_BN[:1].detach().expand(3, -1).clone().requires_grad_())


@pytest.mark.parametrize("is_training", [True, False])
def test_the_gate_computes_the_formula(
    schema: Schema, context: Context, hidden_BN: torch.Tensor, is_training: bool
) -> None:
    module = make(schema).train(is_training)
    gated = module(hidden_BN, context).detach().numpy()
    z, h = context.z_BN.detach().numpy(), hidden_BN.detach().numpy()
    v_in = np.concatenate([z[:, DOMAIN_COLUMNS], h], 1) @ module.weight.detach().numpy()
    v_out = 2.0 / (1.0 + np.exp(-5.0 * v_in))
    expected = h * np.where(v_out > 0.25, v_out, 0.0)
    assert 0 < np.sum(expected == 0.0) < expected.size
    np.testing.assert_allclose(gated, expected, rtol=1e-4, atol=1e-6)
    recorded = [float(share) for share in context.logs.values()]
    assert recorded == ([pytest.approx(np.mean(expected == 0.0))] if is_training else [])


def test_some_columns_alone_are_gated(schema: Schema, context: Context, hidden_BN: torch.Tensor) -> None:
    module = make(schema, columns=torch.tensor([1, 4]))
    torch.nn.init.constant_(module.bias, -1000.0)
    assert module.weight.shape == (10, 2)
    for is_training in (True, False):
        gated = module.train(is_training)(hidden_BN, context)
        assert not gated[:, [1, 4]].any()
        assert torch.equal(gated[:, [0, 2, 3, 5]], hidden_BN[:, [0, 2, 3, 5]])


def test_soft_differs_between_training_and_inference(
    schema: Schema, context: Context, hidden_BN: torch.Tensor
) -> None:
    module = make(schema, replace(FUSION, gradient="soft"), scale=0.0)
    torch.nn.init.constant_(module.bias, -6.0)
    assert module.train()(hidden_BN, context).abs().min() > 0.0
    assert not module.eval()(hidden_BN, context).any()


def test_without_the_hidden_layer_factors_depend_on_the_domain_alone(
    schema: Schema, context: Context, hidden_BN: torch.Tensor
) -> None:
    module = make(schema, takes_hidden=False)
    assert module.weight.shape == (4, 6)
    assert torch.equal(module.factors(hidden_BN, context), module.factors(hidden_BN + 1.0, context))


@pytest.mark.parametrize("is_detached", [True, False])
def test_the_input_of_the_pruner_can_be_detached(
    schema: Schema, context: Context, hidden_BN: torch.Tensor, is_detached: bool
) -> None:
    module = make(schema, replace(FUSION, is_detached=is_detached))
    gated = module.train()(hidden_BN.detach() if is_detached else hidden_BN, context)
    grads = torch.autograd.grad(gated.sum(), [module.weight, context.z_BN], allow_unused=True)
    assert grads[0].any()
    assert (grads[1] is None) == is_detached


def test_factors_of_the_domain_are_the_same_for_all_its_rows(
    schema: Schema, context: Context, hidden_BN: torch.Tensor
) -> None:
    """In training factors are computed once per domain, in evaluation once per row."""
    module, same = make(schema, takes_hidden=False), same_domain(context)
    trained = module.train()(hidden_BN, same)
    assert torch.equal(trained, module.eval()(hidden_BN, same))
    (slope,) = torch.autograd.grad(trained.sum(), same.z_BN)
    apart = replace(same, domain_B=torch.zeros(3, dtype=torch.int32))
    (by_row,) = torch.autograd.grad(module.train()(hidden_BN, apart).sum(), apart.z_BN)
    torch.testing.assert_close(slope.sum(0), by_row.sum(0))


@pytest.mark.parametrize("takes_hidden", [False, True])
def test_under_bf16_training_and_evaluation_prune_the_same_neurons(
    schema: Schema, context: Context, hidden_BN: torch.Tensor, takes_hidden: bool
) -> None:
    module, same = make(schema, takes_hidden=takes_hidden), same_domain(context)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        trained, evaluated = module.train()(hidden_BN, same), module.eval()(hidden_BN, same)
    torch.testing.assert_close(trained, evaluated, rtol=1e-5, atol=1e-6)
