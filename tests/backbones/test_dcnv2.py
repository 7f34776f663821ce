from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.backbones.dcnv2 import CrossMix, ScaledCross
from ctrbench.contract.check import check
from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.interactions import Cross
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select


def plan_of(selector: str) -> Plan:
    plan: Plan = select("backbones", selector).value.plan()
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
    kernels = [factors[0] if rank is None else factors[0] @ factors[1] for factors in module.kernels]
    layers = [(kernel.tolist(), bias.tolist()) for kernel, bias in zip(kernels, module.biases, strict=True)]
    x_BN = drawn(5, 4, seed=9)
    expected = torch.tensor([cross_by_hand(row, layers) for row in x_BN.tolist()])
    torch.testing.assert_close(module(x_BN, None).detach(), expected, rtol=1e-4, atol=1e-5)


def test_the_first_layer_multiplies_pairs_of_inputs(schema: Schema) -> None:
    module = Cross(name="cross", layers=1).build(2, Build(schema=schema, seed=1))
    module.kernels[0][0].data = torch.tensor([[0.0, 1.0], [0.0, 0.0]])  # type: ignore[index]
    # Column 1 gains x_0[1] * x[0]; column 0 gains nothing.
    assert module(torch.tensor([[3.0, 5.0]]), None).tolist() == [[3.0, 5.0 + 5.0 * 3.0]]


def test_the_bias_stands_inside_the_product(schema: Schema) -> None:
    module = Cross(name="cross", layers=1).build(2, Build(schema=schema, seed=1))
    module.kernels[0][0].data.zero_()  # type: ignore[index]
    module.biases[0].data.fill_(2.0)
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


def test_experts_make_a_mixture_of_the_cross_network() -> None:
    mix = CrossMix(name="cross", layers=3, experts=4, rank=5)
    assert plan_of("dcnv2[experts=4,rank=5]").interactions == (mix,)


def test_diag_scale_adds_to_the_kernels() -> None:
    assert plan_of("dcnv2[diag_scale=0.5]").interactions == (
        ScaledCross(name="cross", layers=3, diag_scale=0.5),
    )
    assert plan_of("dcnv2[diag_scale=0]") == plan_of("dcnv2")


@pytest.mark.parametrize("rank", [None, 2])
def test_scaled_cross_adds_to_the_diagonal(rank: int | None, stage_by_hand: Callable) -> None:
    stage = stage_by_hand(ScaledCross(name="cross", layers=2, rank=rank, diag_scale=0.7), num_inputs=4)
    weight = stage.weight

    def expected(row: np.ndarray) -> np.ndarray:
        x = row
        for layer in range(2):
            kernel = weight[f"kernels.{layer}.0"]
            kernel = kernel @ weight[f"kernels.{layer}.1"] if rank else kernel
            x = row * (x @ (kernel + 0.7 * np.eye(4)) + weight[f"biases.{layer}"]) + x
        return x

    stage.expect(expected)


def test_scaled_cross_starts_from_the_kernels_of_cross(schema: Schema) -> None:
    build = Build(schema=schema, seed=1)
    scaled = ScaledCross(name="cross", layers=2, diag_scale=0.5).build(5, build)
    plain = Cross(name="cross", layers=2).build(5, build)
    assert all(torch.equal(a, b) for a, b in zip(scaled.parameters(), plain.parameters(), strict=True))


def test_a_mixture_of_low_rank_experts(stage_by_hand: Callable) -> None:
    stage = stage_by_hand(CrossMix(name="s", layers=2, experts=3, rank=2), num_inputs=5)
    weight, g = stage.weight, np.tanh

    def layer(row: np.ndarray, x: np.ndarray, part: str) -> np.ndarray:
        down = np.split(weight[f"{part}.down"], 3, axis=1)
        up, core = np.split(weight[f"{part}.up"], 3), weight[f"{part}.core"]
        scores = np.exp(x @ weight[f"{part}.gate"])
        experts = [row * (g(g(x @ down[k]) @ core[k]) @ up[k] + weight[f"{part}.bias"]) for k in range(3)]
        return sum(s * e for s, e in zip(scores / scores.sum(), experts, strict=True)) + x

    stage.expect(lambda row: layer(row, layer(row, row, "layers.0"), "layers.1"))


@pytest.mark.parametrize(("num_inputs", "rank"), [(17, 4), (3, 1)])
def test_the_rank_of_experts_is_a_quarter_of_the_inputs(num_inputs: int, rank: int, schema: Schema) -> None:
    module = CrossMix(name="s", layers=1, experts=2).build(num_inputs, Build(schema=schema, seed=1))
    assert module.get_parameter("layers.0.core").shape == (2, rank, rank)


def test_later_settings_do_not_change_the_key() -> None:
    key = {"hidden": [128, 64, 32], "activation": "tanh", "layers": 3, "rank": None, "structure": "parallel"}
    assert select("backbones", "dcnv2").value.key() == key
    assert select("backbones", "dcnv2[experts=2]").value.key() == key | {"experts": 2}


@pytest.mark.parametrize("method", ["plain", "star"])
@pytest.mark.parametrize("settings", ["experts=2", "experts=3,rank=2,structure=stacked", "diag_scale=0.5"])
def test_mixtures_and_scaled_kernels_keep_the_contract(method: str, settings: str) -> None:
    findings = check(method, backbones=[f"dcnv2[{settings}]"])
    assert [finding for finding in findings if not finding.ok] == []


def test_diag_scale_needs_linear_kernels() -> None:
    with pytest.raises(SettingError, match="diag_scale has no effect"):
        plan_of("dcnv2[experts=2,diag_scale=0.5]")


@pytest.mark.parametrize(
    "settings", ["layers=0", "rank=0", "structure=both", "experts=1", "diag_scale=-1", "diag_scale=inf"]
)
def test_impossible_settings_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match=r"the setting \w+ of dcnv2 must be"):
        plan_of(f"dcnv2[{settings}]")
