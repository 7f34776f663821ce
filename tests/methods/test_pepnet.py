"""PEPNet: both kinds of gates in one model, against the formula row by row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import Batch, SplitData
from ctrbench.methods.pepnet import PEPNet
from ctrbench.nn.gates import EmbeddingGate, EmbeddingGateModule, PriorGateModule
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.plugins.registry import select

BACKBONES = ["dnn[hidden=8-4]", "dcnv2[hidden=8-4]", "dcnv2[hidden=8-4,structure=stacked]"]
PRIORS = {"pepnet": slice(8, 12), "pepnet[ppnet_prior=domain]": slice(0, 8)}
LAYERS = (("tower.0", "tower.1"), ("tower.2", "tower.3"), ("head.0", "head.1"))


def gates(model: CTRModel) -> list[torch.nn.Module]:
    return [one for one in model.modules() if isinstance(one, EmbeddingGateModule | PriorGateModule)]


def stir_gates(model: CTRModel) -> CTRModel:
    """Draw the weights of all gates again, wider than at the start."""
    for seed, gate in enumerate(gates(model)):
        generator = torch.Generator().manual_seed(seed)
        for parameter in gate.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def embedded(model: CTRModel, batch: Batch) -> np.ndarray:
    return model.context(batch).z_BN.detach().double().numpy()


def by_hand(model: CTRModel, e_BN: np.ndarray, fixed_BN: np.ndarray, prior: slice) -> np.ndarray:
    """The logits of a DNN with both kinds of gates, in float64; `fixed_BN` is E where its gradient is stopped."""
    values = {name.removeprefix("net."): value.double().numpy() for name, value in model.state_dict().items()}

    def gate(name: str, x: np.ndarray) -> np.ndarray:
        hidden = np.maximum(
            x @ values[f"{name}.unit.hidden.weight"] + values[f"{name}.unit.hidden.bias"], 0.0
        )
        v = hidden @ values[f"{name}.unit.output.weight"] + values[f"{name}.unit.output.bias"]
        factors: np.ndarray = 2.0 / (1.0 + np.exp(-v))
        return factors

    logits = []
    for e, fixed in zip(e_BN, fixed_BN, strict=True):
        h = gate("at_input.0", np.concatenate([e[:8], fixed])) * e
        fixed_o = gate("at_input.0", np.concatenate([fixed[:8], fixed])) * fixed
        for before, layer in LAYERS:
            h = gate(before, np.concatenate([e[prior], fixed_o])) * h
            h = h @ values[f"{layer}.weight"] + values[f"{layer}.bias"]
            h = h if layer == "head.1" else np.tanh(h)
        logits.append(h[0])
    return np.array(logits)


@pytest.mark.parametrize("method", PRIORS)
def test_gates_of_layers_read_gated_embeddings(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, method: str
) -> None:
    model, batch = stir_gates(build_model(method)), unseen_data.slice(0, 30)
    e_BN = embedded(model, batch)
    expected = by_hand(model, e_BN, e_BN, PRIORS[method])
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", PRIORS)
def test_e_d_and_the_prior_learn_through_the_gates_and_all_embeddings_through_the_products(
    build_model: Callable[..., CTRModel],
    slope: Callable[..., np.ndarray],
    method: str,
    input_gradient: Callable[[CTRModel], tuple[np.ndarray, np.ndarray]],
) -> None:
    model, prior = stir_gates(build_model(method)), PRIORS[method]
    e_BN, grad_BN = input_gradient(model)
    expected = slope(lambda moved_BN: float((by_hand(model, moved_BN, e_BN, prior) ** 2).sum()), e_BN)
    np.testing.assert_allclose(grad_BN, expected, rtol=1e-3, atol=1e-5)


def test_the_gate_on_embeddings_is_the_first_stage_at_the_input() -> None:
    before = EmbeddingGate(name="other")
    at_input = PEPNet().rewrite(Dnn().plan().with_input(before)).at_input
    assert [stage.name for stage in at_input] == ["epnet", "other"]


def test_settings_reach_both_kinds_of_gates(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    model = build_model("pepnet[gamma=1,gate_hidden=3]")
    assert [gate.get_parameter("unit.hidden.bias").shape for gate in gates(model)] == [(3,)] * 4
    batch = data.slice(0, 50)
    halved = build_model("plain")
    with torch.no_grad():
        # Factors start at one half: twice at the input, once before each later layer.
        for name, factor in (("tower.0", 0.25), ("tower.1", 0.5), ("head.0", 0.5)):
            halved.get_parameter(f"net.{name}.weight").mul_(factor)
    torch.testing.assert_close(model(batch), halved(batch))
    assert PEPNet(gamma=1.0).starts_as_backbone is None


def test_parameters_are_those_of_epnet_and_ppnet(build_model: Callable[..., CTRModel]) -> None:
    plain = build_model("plain").num_parameters()
    assert build_model("pepnet").num_parameters() == {**plain, "dense": plain["dense"] + 748 + 1036}


def test_gates_start_as_those_of_epnet_and_ppnet(build_model: Callable[..., CTRModel]) -> None:
    both = build_model("pepnet").state_dict()
    for method in ("epnet", "ppnet"):
        one = {name: value for name, value in build_model(method).state_dict().items() if ".unit." in name}
        assert one
        assert all(torch.equal(both[name], value) for name, value in one.items())


def test_the_prior_consists_of_ids_or_domain_features() -> None:
    with pytest.raises(ValueError, match="ppnet_prior"):
        _ = select("methods", "pepnet[ppnet_prior=city]").value


def test_a_plan_without_dense_layers_is_refused() -> None:
    assert "use epnet" in str(PEPNet().supports(Plan(tower=(), head=())))
    assert PEPNet().supports(Dnn().plan()) is None
