"""HiNet against loops over rows, domains and sub-experts, and the attention between domains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.hinet import Attention, Extraction, Hinet
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select

LARGEST = 1
SMALL = "hinet[sub_experts=3,experts=2,expert=6-5,tower=4-3,embedding=3,attention=5]"
STAGE = "net.tower.0"


class ByHand:
    """One row at a time, in float64."""

    def __init__(self, model: CTRModel, num_sub_experts: int = 3, num_experts: int = 2) -> None:
        self.state = {name: value.double().numpy() for name, value in model.state_dict().items()}
        self.num_sub_experts, self.num_experts = num_sub_experts, num_experts
        self.num_domains = model.schema.num_indicators

    def bank(self, prefix: str, expert: int, x: np.ndarray) -> np.ndarray:
        for layer in range(2):
            weight, bias = (self.state[f"{STAGE}.{prefix}.{layer}.{part}"] for part in ("weight", "bias"))
            x = np.tanh(x @ weight[expert] + bias[expert, 0])
        return x

    def sei(self, view: int, x: np.ndarray) -> np.ndarray:
        """View 0 is the shared one, view q that of domain q."""
        part, first = ("own", (view - 1) * self.num_sub_experts) if view else ("shared", 0)
        places = range(first, first + self.num_sub_experts)
        weights = softmax(np.array([x @ self.state[f"{STAGE}.{part}.gate"][:, place] for place in places]))
        return sum(w * self.bank(f"{part}.experts", k, x) for w, k in zip(weights, places, strict=True))

    def attention(self, p: int) -> dict[int, float]:
        prefix = f"{STAGE}.attention"
        hidden = self.state[f"{prefix}.embedding.weight"][p] @ self.state[f"{prefix}.mlp.0.weight"]
        hidden = np.maximum(hidden + self.state[f"{prefix}.mlp.0.bias"], 0.0)
        logits = hidden @ self.state[f"{prefix}.mlp.1.weight"] + self.state[f"{prefix}.mlp.1.bias"]
        others = [q for q in range(1, self.num_domains + 1) if q != p]
        return dict(zip(others, softmax(np.array([logits[q - 1] for q in others])), strict=True))

    def joined(self, x: np.ndarray, p: int) -> np.ndarray:
        parts = [self.sei(0, x), self.sei(p, x)]
        if self.num_domains == 2:
            parts.append(self.sei(3 - p, x))
        if self.num_domains > 2:
            parts.append(sum(weight * self.sei(q, x) for q, weight in self.attention(p).items()))
        return np.concatenate(parts)

    def crossed(self, z: np.ndarray) -> np.ndarray:
        """DCN-V2's cross layers of full rank, where the plan has them, as input of the head."""
        x, layer = z, 0
        while (name := f"net.interactions.0.kernels.{layer}.0") in self.state:
            x = z * (x @ self.state[name] + self.state[f"net.interactions.0.biases.{layer}"]) + x
            layer += 1
        return x[: len(x) if layer else 0]

    def logit(self, x: np.ndarray, p: int) -> float:
        joined = self.joined(x, p)
        weights = softmax(joined @ self.state[f"{STAGE}.gate"])
        h = sum(weights[k] * self.bank("experts", k, joined) for k in range(self.num_experts))
        for layer in range(2):
            weight, bias = (self.state[f"{STAGE}.tower.{layer}.{part}"] for part in ("weight", "bias"))
            h = np.tanh(h @ weight + bias)
        h = np.concatenate([self.crossed(x), h])
        return float(h @ self.state["net.head.0.weight"][:, 0] + self.state["net.head.0.bias"][0])


def few_domains(schema: Schema, num_domains: int) -> CTRModel:
    few = replace(schema, indicator_rows=schema.indicator_rows[: num_domains + 1])
    method = select("methods", SMALL).value
    return CTRModel(method.apply(Dnn(hidden=(8, 4)).plan()), few, seed=1)  # type: ignore[union-attr]


def assert_as_by_hand(model: CTRModel, data: SplitData, rows: torch.Tensor) -> None:
    batch, by_hand = data.take(rows), ByHand(model)
    z_BN = model.context(batch).z_BN.detach().double().numpy()
    pairs = zip(z_BN, batch.indicator_B.tolist(), strict=True)
    expected = [by_hand.logit(z, p or LARGEST) for z, p in pairs]
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", "dcnv2[hidden=8-4,layers=2]"])
def test_outputs_agree_with_the_formula(
    build_model: Callable[..., CTRModel],
    unseen_data: SplitData,
    backbone: str,
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model = stir(build_model(SMALL, backbone))
    assert len(model.net.interactions) == backbone.startswith("dcnv2")
    assert_as_by_hand(model, unseen_data, torch.arange(30))


@pytest.mark.parametrize("num_domains", [1, 2, 3])
def test_one_or_two_domains_need_no_attention(
    schema: Schema,
    data: SplitData,
    num_domains: int,
    of_city: Callable[..., torch.Tensor],
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, rows = stir(few_domains(schema, num_domains)), of_city(*range(1, num_domains + 1))
    assert_as_by_hand(model, data, rows[:40])
    has_attention = any(isinstance(module, Attention) for module in model.modules())
    assert has_attention == (num_domains > 2)


@pytest.mark.parametrize("num_domains", [1, 2, 6])
def test_every_parameter_learns(
    schema: Schema,
    data: SplitData,
    num_domains: int,
    of_city: Callable[..., torch.Tensor],
    learn: Callable[..., None],
) -> None:
    model, rows = few_domains(schema, num_domains), of_city(*range(1, num_domains + 1))
    start = {name: value.detach().clone() for name, value in model.net.named_parameters()}
    learn(model, data.take(rows), steps=4)
    for name, value in model.net.named_parameters():
        moved = value != start[name]
        # Columns of gates and of weights belong to experts and domains, as do rows of all other parameters.
        moved = moved.T if name.endswith(("gate", "mlp.1.weight")) else moved[:, None]
        is_own = name.endswith("embedding.weight")
        assert (moved[1:] if is_own else moved).flatten(1).any(1).all(), name


def test_weights_of_the_others_sum_to_one(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, stir: Callable[[CTRModel], CTRModel]
) -> None:
    model = stir(build_model(SMALL))
    (attention,) = (module for module in model.modules() if isinstance(module, Attention))
    context = model.context(unseen_data.slice(0, 30))
    weight_GP, own_G = attention(context), context.seen_routing.present_G - 1
    assert weight_GP.shape == (6, 6)
    assert (weight_GP[torch.arange(6), own_G] == 0.0).all()
    assert (weight_GP > 0.0).sum() == 30
    torch.testing.assert_close(weight_GP.sum(1), torch.ones(6))


def test_sub_experts_of_other_domains_learn_through_the_attention(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    of_city: Callable[..., torch.Tensor],
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model = stir(build_model(SMALL))
    model(data.take(of_city(2))).sum().backward()
    grad = model.get_parameter(f"{STAGE}.own.experts.0.weight").grad
    assert grad is not None
    assert (grad.flatten(1).abs().amax(1) > 0.0).all()


def test_a_batch_of_one_domain_gives_what_a_mixed_batch_gives(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    of_city: Callable[..., torch.Tensor],
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, rows = stir(build_model(SMALL)), of_city(2)
    torch.testing.assert_close(model(data.take(rows)), model(data.slice(0, len(data)))[rows])


def test_sub_experts_have_the_widths_of_the_tower_and_different_weights(
    build_model: Callable[..., CTRModel],
) -> None:
    (stage,) = Hinet().rewrite(Dnn(activation="relu").plan()).tower
    assert isinstance(stage, Extraction)
    assert stage.sub_expert == Dnn(activation="relu").plan().tower
    assert {dense.activation for dense in (*stage.expert, *stage.tower)} == {"relu"}
    model = build_model(SMALL)
    weights = [model.get_parameter(f"{STAGE}.{part}.experts.0.weight") for part in ("shared", "own")]
    assert [len(weight) for weight in weights] == [3, 6 * 3]
    assert len(torch.unique(torch.cat(weights).detach(), dim=0)) == 7 * 3


def test_parameters_are_counted_by_hand(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide, C_p 3 x 4; a sub-expert has (17 + 1) 8 + (8 + 1) 4.
    counts = build_model("hinet").num_parameters()
    view, extraction = 5 * 180 + 17 * 5, 2 * (13 * 64) + 12 * 2 + 65 * 64
    assert counts["dense"] == view + extraction + 17 * 64 + 65 * 6 + 65
    assert counts["per_domain"] == 6 * view + 7 * 16


def test_too_many_domains_are_refused(schema: Schema) -> None:
    many = replace(schema, indicator_rows=(0, *[10] * 33))
    with pytest.raises(SettingError, match="max_domains allows 32 domains: 33 domains"):
        CTRModel(Hinet().apply(Dnn().plan()), many, seed=1)
    CTRModel(Hinet(max_domains=33).apply(Dnn(hidden=(8,)).plan()), many, seed=1)


@pytest.mark.parametrize("settings", ["sub_experts=1", "experts=1", "attention=0", "tower=0"])
def test_values_out_of_range_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match=settings.partition("=")[0]):
        _ = select("methods", f"hinet[{settings}]").value


def test_a_plan_without_a_dense_tower_is_refused() -> None:
    assert "this plan has none" in str(Hinet().supports(Plan(tower=(), head=())))
    assert Hinet().supports(Dnn().plan()) is None
