"""EPNet: the whole model against its formula, row by row; the gate itself is tested with the gates."""

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
from ctrbench.plugins.registry import select

BACKBONES = ["dnn[hidden=8-4]", "dcnv2[hidden=8-4]", "dcnv2[hidden=8-4,structure=stacked]"]
ALL = [
    *BACKBONES,
    "deepfm[hidden=8-4]",
    "widedeep[hidden=8-4]",
    "xdeepfm[hidden=8-4]",
    "autoint[hidden=8-4]",
    "pnn[hidden=8-4]",
    "finalmlp[hidden=8-4]",
    "finalmlp[hidden=8-4,gating=false]",
]
GATE = "net.at_input.0.unit"


def stir_gate(model: CTRModel) -> CTRModel:
    """Draw the weights of the gate again, so that its factors differ from one."""
    for name in ("hidden.bias", "output.weight", "output.bias"):
        parameter = model.get_parameter(f"{GATE}.{name}")
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    return model


def numbers(model: CTRModel, *names: str) -> list[np.ndarray]:
    return [model.get_parameter(name).detach().double().numpy() for name in names]


def embedded(model: CTRModel, batch: Batch) -> np.ndarray:
    return model.context(batch).z_BN.detach().double().numpy()


def gated(model: CTRModel, z: np.ndarray, fixed: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """O of one row; `fixed` is E where its gradient is stopped."""
    first, a, second, b = numbers(
        model, *(f"{GATE}.{layer}.{kind}" for layer in ("hidden", "output") for kind in ("weight", "bias"))
    )
    x = np.concatenate([z[:8], fixed])
    o: np.ndarray = gamma / (1.0 + np.exp(-(np.maximum(x @ first + a, 0.0) @ second + b))) * z
    return o


def by_hand(model: CTRModel, z_BN: np.ndarray, fixed_BN: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """The logits of a DNN after the gate."""
    layers = [
        numbers(model, f"net.{one}.weight", f"net.{one}.bias") for one in ("tower.0", "tower.1", "head.0")
    ]
    logits = []
    for z, fixed in zip(z_BN, fixed_BN, strict=True):
        h = gated(model, z, fixed, gamma)
        for place, (weight, bias) in enumerate(layers):
            h = h @ weight + bias if place == 2 else np.tanh(h @ weight + bias)
        logits.append(h[0])
    return np.array(logits)


@pytest.mark.parametrize(("method", "gamma"), [("epnet", 2.0), ("epnet[gamma=3,gate_hidden=5]", 3.0)])
def test_the_network_reads_gated_embeddings(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, method: str, gamma: float
) -> None:
    model, batch = stir_gate(build_model(method)), unseen_data.slice(0, 30)
    z_BN = embedded(model, batch)
    np.testing.assert_allclose(model(batch).detach(), by_hand(model, z_BN, z_BN, gamma), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ALL)
def test_all_readers_of_embeddings_read_gated_ones(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, backbone: str
) -> None:
    model, batch = stir_gate(build_model("epnet", backbone)), unseen_data.slice(0, 30)
    plain = build_model("plain", backbone)
    for one in (model, plain):
        # Products of fields are far below the tolerance at the start.
        one.embedding.table.weight.data.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    z_BN = embedded(model, batch)
    context = plain.context(batch)
    # First-order weights are apart from z, and stay as they are.
    gated_BN = np.stack([gated(model, z, z) for z in z_BN])
    context.z_BN = torch.from_numpy(gated_BN).float()
    assert (model(batch) - plain(batch)).abs().max() > 1e-2
    torch.testing.assert_close(model(batch), plain.net(context), rtol=1e-4, atol=1e-5)


def test_the_gate_is_the_first_stage_at_the_input() -> None:
    plan, before = Dcnv2().plan(), EmbeddingGate(name="other")
    assert EPNet().rewrite(plan) == replace(plan, at_input=(EmbeddingGate(name="epnet"),))
    at_input = EPNet().rewrite(plan.with_input(before)).at_input
    assert [stage.name for stage in at_input] == ["epnet", "other"]


def test_embeddings_learn_through_the_product_and_e_d_through_the_gate_too(
    build_model: Callable[..., CTRModel],
    slope: Callable[..., np.ndarray],
    input_gradient: Callable[[CTRModel], tuple[np.ndarray, np.ndarray]],
) -> None:
    model = stir_gate(build_model("epnet"))
    z_BN, grad_BN = input_gradient(model)
    expected = slope(lambda moved_BN: float((by_hand(model, moved_BN, z_BN) ** 2).sum()), z_BN)
    np.testing.assert_allclose(grad_BN, expected, rtol=1e-3, atol=1e-5)


def test_other_factors_than_two_make_no_claim_about_the_start() -> None:
    assert EPNet().starts_as_backbone == 0.0
    assert EPNet(gamma=1.0).starts_as_backbone is None


def test_parameters_are_those_of_one_gate(build_model: Callable[..., CTRModel]) -> None:
    plain = build_model("plain").num_parameters()
    # z is 17 wide, e_d 8: (25 + 1) 17 + (17 + 1) 17; with five hidden units (25 + 1) 5 + (5 + 1) 17.
    assert build_model("epnet").num_parameters() == {**plain, "dense": plain["dense"] + 748}
    found = build_model("epnet[gate_hidden=5]").num_parameters()
    assert found == {**plain, "dense": plain["dense"] + 232}


@pytest.mark.parametrize("settings", ["gamma=0", "gamma=inf", "gate_hidden=0"])
def test_settings_without_a_gate_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match=settings.split("=")[0]):
        _ = select("methods", f"epnet[{settings}]").value
