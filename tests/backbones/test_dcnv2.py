from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Build, Plan, Schema
from ctrbench.nn.stages import Cross
from ctrbench.registry import select


def plan_of(selector: str) -> Plan:
    plan: Plan = select("backbones", selector).value.plan()  # type: ignore[union-attr]
    return plan


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_the_plan_is_the_tower_of_dnn_and_a_cross_network(structure: str) -> None:
    plan, dnn = plan_of(f"dcnv2[structure={structure},layers=2]"), plan_of("dnn")
    assert (plan.tower, plan.head, plan.join) == (dnn.tower, dnn.head, structure)
    assert plan.interactions == (Cross(name="cross", layers=2),)


def cross_by_hand(x0: list[float], layers: list[tuple[list[list[float]], list[float]]]) -> list[float]:
    """x_{l+1} = x_0 ⊙ (x_l K + b) + x_l, on plain lists."""
    x = x0
    for kernel, bias in layers:
        product = [sum(x[i] * kernel[i][j] for i in range(len(x))) + bias[j] for j in range(len(x))]
        x = [x0[j] * product[j] + x[j] for j in range(len(x))]
    return x


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rank", [None, 2])
def test_cross_layers_by_hand(schema: Schema, rank: int | None) -> None:
    module = Cross(name="cross", layers=3, rank=rank).build(4, Build(schema=schema, seed=1))
    for place, bias in enumerate(module.biases):
        bias.data = drawn(4, seed=place)
    kernels = [
        factors[0] if rank is None else factors[0] @ factors[1]
        for factors in module.kernels  # type: ignore[union-attr]
    ]
    layers = [(kernel.tolist(), bias.tolist()) for kernel, bias in zip(kernels, module.biases, strict=True)]
    x_BN = drawn(5, 4, seed=9)
    expected = torch.tensor([cross_by_hand(row, layers) for row in x_BN.tolist()])
    torch.testing.assert_close(module(x_BN, None).detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_first_layer_multiplies_pairs_of_inputs(schema: Schema) -> None:
    module = Cross(name="cross", layers=1).build(2, Build(schema=schema, seed=1))
    module.kernels[0][0].data = torch.tensor([[0.0, 1.0], [0.0, 0.0]])  # type: ignore[index, union-attr]
    # Column 1 gains x_0[1] * x[0]; column 0 gains nothing.
    assert module(torch.tensor([[3.0, 5.0]]), None).tolist() == [[3.0, 5.0 + 5.0 * 3.0]]


def test_the_bias_stands_inside_the_product(schema: Schema) -> None:
    module = Cross(name="cross", layers=1).build(2, Build(schema=schema, seed=1))
    module.kernels[0][0].data.zero_()  # type: ignore[index, union-attr]
    module.biases[0].data.fill_(2.0)  # type: ignore[index, union-attr]
    assert module(torch.tensor([[3.0, -1.0]]), None).tolist() == [[9.0, -3.0]]


@pytest.mark.parametrize(("rank", "numbers"), [(None, 17 * 17 + 17), (3, 2 * 17 * 3 + 17)])
def test_rank_saves_parameters(build_model: Callable[..., CTRModel], rank: int | None, numbers: int) -> None:
    plain = build_model(backbone="dcnv2[hidden=8-4,layers=1,structure=stacked]" if rank is None else
                        f"dcnv2[hidden=8-4,layers=1,structure=stacked,rank={rank}]")  # fmt: skip
    dnn = build_model(backbone="dnn[hidden=8-4]")
    assert plain.num_parameters()["dense"] - dnn.num_parameters()["dense"] == numbers


def test_stacked_and_parallel_differ(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    parallel, stacked = (
        build_model(backbone=f"dcnv2[hidden=8-4,structure={structure}]")
        for structure in ("parallel", "stacked")
    )
    assert parallel.net.head[0].weight.shape == (17 + 4, 1)
    assert stacked.net.head[0].weight.shape == (4, 1)
    assert not torch.equal(parallel(data.slice(0, 5)), stacked(data.slice(0, 5)))


@pytest.mark.parametrize("settings", ["layers=0", "rank=0", "structure=both"])
def test_impossible_settings_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match="dcnv2: setting"):
        plan_of(f"dcnv2[{settings}]")
