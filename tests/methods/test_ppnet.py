"""PPNet: the whole model against its formula, row by row; a single gate is tested with the gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.ppnet import PPNet
from ctrbench.nn.gates import PriorGate, PriorGateModule
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Stage

BACKBONES = ["dnn[hidden=8-4]", "dcnv2[hidden=8-4]", "dcnv2[hidden=8-4,structure=stacked]"]
DNN = ("tower.0", "tower.1", "tower.2", "tower.3", "head.0", "head.1")
"""A gate and a dense layer in turn."""
PRIORS = {"ppnet": slice(8, 12), "ppnet[ppnet_prior=domain]": slice(0, 8)}
"""Columns of the user and of e_d in z."""


def gates(model: CTRModel) -> list[PriorGateModule]:
    return [module for module in model.modules() if isinstance(module, PriorGateModule)]


def stir_gates(model: CTRModel) -> CTRModel:
    """Draw the weights of all gates again, wider than at the start."""
    for gate in gates(model):
        for place, parameter in enumerate(gate.parameters()):
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(place))
    return model


def embedded(model: CTRModel, batch: Batch) -> np.ndarray:
    return model.context(batch).z_BN.detach().double().numpy()


def by_hand(
    model: CTRModel, z_BN: np.ndarray, fixed_BN: np.ndarray, prior: slice, gamma: float = 2.0
) -> np.ndarray:
    """The logits of a DNN with gates, in float64; `fixed_BN` are the embeddings where their gradient is stopped."""
    values = {name: value.double().numpy() for name, value in model.state_dict().items()}
    logits = []
    for z, fixed in zip(z_BN, fixed_BN, strict=True):
        h, x = z, np.concatenate([z[prior], fixed])
        for gate, layer in zip(DNN[::2], DNN[1::2], strict=True):
            a, b, c, d = (
                values[f"net.{gate}.unit.{part}.{kind}"]
                for part in ("hidden", "output")
                for kind in ("weight", "bias")
            )
            h = gamma / (1.0 + np.exp(-(np.maximum(x @ a + b, 0.0) @ c + d))) * h
            h = h @ values[f"net.{layer}.weight"] + values[f"net.{layer}.bias"]
            h = h if layer == DNN[-1] else np.tanh(h)
        logits.append(h[0])
    return np.array(logits)


@pytest.mark.parametrize(
    ("method", "prior", "gamma"),
    [*((method, prior, 2.0) for method, prior in PRIORS.items()), ("ppnet[gamma=3]", PRIORS["ppnet"], 3.0)],
)
def test_each_layer_reads_gated_inputs(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, method: str, prior: slice, gamma: float
) -> None:
    model, batch = stir_gates(build_model(method)), unseen_data.slice(0, 30)
    z_BN = embedded(model, batch)
    expected = by_hand(model, z_BN, z_BN, prior, gamma)
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_gate_stands_before_each_dense_layer_and_nowhere_else() -> None:
    plan = PPNet().apply(Dcnv2().plan())
    kept = [
        [stage for stage in stages if not isinstance(stage, PriorGate)] for stages in (plan.tower, plan.head)
    ]
    assert [tuple(one) for one in kept] == [Dcnv2().plan().tower, Dcnv2().plan().head]
    assert all(isinstance(stage, PriorGate) for stage in (*plan.tower[::2], *plan.head[::2]))
    assert (plan.at_input, plan.interactions) == ((), Dcnv2().plan().interactions)


@pytest.mark.parametrize("method", PRIORS)
def test_embeddings_learn_through_the_network_and_the_prior_through_the_gates_too(
    build_model: Callable[..., CTRModel],
    slope: Callable[..., np.ndarray],
    method: str,
    input_gradient: Callable[[CTRModel], tuple[np.ndarray, np.ndarray]],
) -> None:
    model, prior = stir_gates(build_model(method)), PRIORS[method]
    z_BN, grad_BN = input_gradient(model)
    expected = slope(lambda moved_BN: float((by_hand(model, moved_BN, z_BN, prior) ** 2).sum()), z_BN)
    np.testing.assert_allclose(grad_BN, expected, rtol=1e-3, atol=1e-5)


def test_without_fields_of_ids_the_prior_must_be_the_domain(schema: Schema) -> None:
    nameless = replace(schema, fields=tuple(replace(one, role="context") for one in schema.fields))
    plan = Dcnv2(hidden=(8, 4)).plan()
    with pytest.raises(SettingError, match="ppnet_prior=domain"):
        CTRModel(PPNet().apply(plan), nameless, seed=1)
    assert CTRModel(PPNet(ppnet_prior="domain").apply(plan), nameless, seed=1).num_parameters()["dense"] > 0


def test_a_domain_feature_is_not_part_of_the_ids(schema: Schema) -> None:
    plan = Dcnv2(hidden=(8, 4)).plan()
    without = replace(schema, hidden=("user",))
    with pytest.raises(SettingError, match=r"no domain feature.*roles of the one-id fields: none"):
        CTRModel(PPNet().apply(plan), without, seed=1)
    assert CTRModel(PPNet(ppnet_prior="domain").apply(plan), without, seed=1).num_parameters()["dense"] > 0


def test_a_plan_without_dense_layers_is_refused() -> None:
    other: Stage = PriorGate(name="other")
    assert "has none" in str(PPNet().supports(Plan(tower=(other,), head=(other,))))
    assert PPNet().supports(Dcnv2().plan()) is None


def test_other_factors_than_two_make_no_claim_about_the_start() -> None:
    assert PPNet().starts_as_backbone == 0.0
    assert PPNet(gamma=1.0).starts_as_backbone is None


def test_parameters_are_those_of_one_gate_per_layer(build_model: Callable[..., CTRModel]) -> None:
    plain = build_model("plain").num_parameters()
    # The gates read 4 + 17 numbers and scale 17, 8 and 4 of them: Σ (21 + 1) n + (n + 1) n.
    assert build_model("ppnet").num_parameters() == {**plain, "dense": plain["dense"] + 680 + 248 + 108}
    # Of e_d, 8 wide, with three hidden units: Σ (25 + 1) 3 + (3 + 1) n.
    found = build_model("ppnet[ppnet_prior=domain,gate_hidden=3]").num_parameters()
    assert found == {**plain, "dense": plain["dense"] + 3 * 78 + 4 * 29}
