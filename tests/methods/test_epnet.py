"""EPNet: the whole model against its formula, row by row; the gate alone is tested with the gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.epnet import EPNet
from ctrbench.nn.gates import EmbeddingGate
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.registry import select
from ctrbench.train.learner import Learner

BACKBONES = ["dnn[hidden=8-4]", "dcnv2[hidden=8-4]", "dcnv2[hidden=8-4,structure=stacked]"]
GATE = "net.at_input.0.unit"


def stir(model: CTRModel) -> CTRModel:
    for name in ("hidden.bias", "output.weight", "output.bias"):
        parameter = model.get_parameter(f"{GATE}.{name}")
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    return model


def numbers(model: CTRModel, *names: str) -> list[np.ndarray]:
    return [model.get_parameter(name).detach().double().numpy() for name in names]


def by_hand(model: CTRModel, batch: Batch, gamma: float = 2.0) -> np.ndarray:
    first, a, second, b = numbers(
        model, *(f"{GATE}.{layer}.{kind}" for layer in ("hidden", "output") for kind in ("weight", "bias"))
    )
    layers = [
        numbers(model, f"net.{one}.weight", f"net.{one}.bias") for one in ("tower.0", "tower.1", "head.0")
    ]
    logits = []
    for z in model.context(batch).z_BN.detach().double().numpy():
        x = np.concatenate([z[:8], z])
        h = gamma / (1.0 + np.exp(-(np.maximum(x @ first + a, 0.0) @ second + b))) * z
        for place, (weight, bias) in enumerate(layers):
            h = h @ weight + bias if place == 2 else np.tanh(h @ weight + bias)
        logits.append(h[0])
    return np.array(logits)


@pytest.mark.parametrize(("method", "gamma"), [("epnet", 2.0), ("epnet[gamma=3,gate_hidden=5]", 3.0)])
def test_the_network_is_given_gated_embeddings(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, method: str, gamma: float
) -> None:
    model, batch = stir(build_model(method)), unseen_data.slice(0, 30)
    np.testing.assert_allclose(model(batch).detach(), by_hand(model, batch, gamma), rtol=1e-4, atol=1e-5)


def test_the_gate_stands_before_all_else_at_the_input() -> None:
    plan, before = Dcnv2().plan(), EmbeddingGate(name="other")
    assert EPNet().rewrite(plan) == replace(plan, at_input=(EmbeddingGate(name="epnet"),))
    at_input = EPNet().rewrite(plan.with_input(before)).at_input
    assert [stage.name for stage in at_input] == ["epnet", "other"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_starts_as_its_backbone_and_then_learns(
    build_model: Callable[..., CTRModel], data: SplitData, backbone: str
) -> None:
    model, batch = build_model("epnet", backbone), data.slice(0, 50)
    assert torch.equal(model(batch), build_model("plain", backbone)(batch))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    for _ in range(2):
        Learner().step(model, optimizer, batch)
    now = model.state_dict()
    gate = [name for name in now if name.startswith(GATE)]
    assert len(gate) == 4
    assert not any(torch.equal(now[name], start[name]) for name in gate)


def test_at_the_start_embeddings_learn_as_the_backbones_do(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    batch, grads = data.slice(0, 50), []
    for method in ("plain", "epnet"):
        model = build_model(method)
        model(batch).square().sum().backward()
        grads.append(model.embedding.table.weight.grad)
    assert grads[0].abs().max() > 0.0
    torch.testing.assert_close(grads[1], grads[0])


def test_other_factors_than_two_make_no_claim_of_the_start() -> None:
    assert EPNet().starts_as_backbone == 0.0
    assert EPNet(gamma=1.0).starts_as_backbone is None


def test_parameters_are_those_of_one_gate(build_model: Callable[..., CTRModel]) -> None:
    plain = build_model("plain").num_parameters()
    # z is 17 wide, e_d 8: (25 + 1) 17 + (17 + 1) 17; with five hidden units (25 + 1) 5 + (5 + 1) 17.
    assert build_model("epnet").num_parameters() == {**plain, "dense": plain["dense"] + 748}
    found = build_model("epnet[gate_hidden=5]").num_parameters()
    assert found == {**plain, "dense": plain["dense"] + 232}


@pytest.mark.parametrize("settings", ["gamma=0", "gamma=inf", "gate_hidden=0"])
def test_settings_that_gate_nothing_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match=settings.split("=")[0]):
        _ = select("methods", f"epnet[{settings}]").value
