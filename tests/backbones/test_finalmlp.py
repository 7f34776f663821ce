from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from ctrbench.backbones.finalmlp import AsEmbedded, BilinearFusion, FeatureGate
from ctrbench.contract.check import check
from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Dense, Stage, StageModule

USER, ITEM = slice(4, 12), slice(12, 17)
"""Columns of age and user, and of tags and price."""


def test_the_plan_holds_dense_stages_in_tower_and_head(plan_of: Callable[[str], Plan]) -> None:
    plan, dnn = plan_of("finalmlp"), plan_of("dnn")
    assert plan.tower == dnn.tower
    assert plan.head[1:] == dnn.head
    assert plan.join == "parallel"
    assert [stage.name for stage in plan.at_input] == ["gate1"]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def fused(found: object, second: np.ndarray, first: np.ndarray, heads: int) -> np.ndarray:
    """<w_2, o_2> + <w_1, o_1> + w Σ_h o_2h^T W_h o_1h + b."""
    weight, head = found.weight["head.0.weight"], found.weight["head.1.weight"][:, 0]  # type: ignore[attr-defined]
    parts = zip(np.split(second, heads, axis=1), np.split(first, heads, axis=1), weight, strict=True)
    term = sum(np.einsum("ba,ac,bc->b", left, own, right) for left, right, own in parts)
    bias = found.weight["head.1.bias"][0]  # type: ignore[attr-defined]
    return np.asarray(second @ head[:4] + first @ head[4:8] + head[8] * term + bias)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_logits_of_two_gated_streams_by_hand(heads: int, by_hand: Callable) -> None:
    found = by_hand(f"finalmlp[hidden=8-4,heads={heads},gate_hidden=5]")

    def gated(columns: slice, name: str) -> np.ndarray:
        hidden = np.maximum(found.dense(found.z[:, columns], f"{name}.mlp.0"), 0.0)
        return np.asarray(2.0 * sigmoid(found.dense(hidden, f"{name}.mlp.1")) * found.z)

    inner = "interactions.0.stages"
    first = found.tower(gated(USER, "at_input.0"))
    second = found.tower(gated(ITEM, f"{inner}.1"), inner, 2)
    found.expect(fused(found, second, first, heads))


def test_logits_without_gates_by_hand(by_hand: Callable) -> None:
    found = by_hand("finalmlp[hidden=8-4,gating=false]")
    second = found.tower(found.z, "interactions.0.stages")
    found.expect(fused(found, second, found.tower(found.z), 2))


def test_streams_start_at_different_weights(build_model: Callable[..., CTRModel]) -> None:
    state = build_model(backbone="finalmlp[hidden=8-4,gating=false]").state_dict()
    first, second = state["net.tower.0.weight"], state["net.interactions.0.stages.0.weight"]
    assert first.shape == second.shape
    assert not torch.equal(first, second)


@dataclass(frozen=True, kw_only=True)
class Emptied(Stage):
    """A stage whose output is zero."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        return EmptiedModule(num_inputs)


class EmptiedModule(StageModule):
    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        return torch.zeros_like(x_BN)


@pytest.mark.parametrize("gating", [True, False])
def test_a_stage_at_the_input_affects_gates_and_both_streams(
    gating: bool, plan_of: Callable[[str], Plan], schema: Schema, data: SplitData
) -> None:
    plan = plan_of(f"finalmlp[hidden=8-4,gating={gating}]").with_input(Emptied(name="empty"))
    model, batch = CTRModel(plan, schema, seed=1), data.slice(0, 9)
    second = model.net.interactions[0](torch.zeros(9, 17), model.context(batch))  # type: ignore[operator, index]
    # Without gates both streams read it; with them stream 2 reads the original embeddings.
    assert bool(second.any()) is gating
    assert not model.net.tower(model.net.at_input(torch.ones(9, 17), model.context(batch)), None).any()  # type: ignore[operator]


@pytest.mark.parametrize("role", [None, "shop"])
def test_without_fields_of_the_role_a_gate_learns_its_input(
    role: str | None, stage_by_hand: Callable
) -> None:
    stage = stage_by_hand(FeatureGate(name="s", role=role, hidden=5))
    weight = stage.weight
    hidden = np.maximum(weight["learned"][0] @ weight["mlp.0.weight"] + weight["mlp.0.bias"], 0.0)
    gate = 2.0 * sigmoid(hidden @ weight["mlp.1.weight"] + weight["mlp.1.bias"])
    stage.expect(lambda row: row * gate)


def test_the_learned_input_of_a_gate_does_not_start_at_zero(schema: Schema, data: SplitData) -> None:
    plan = Plan(tower=(FeatureGate(name="s", role=None, hidden=5),), head=(Dense(name="head", width=1),))
    model = CTRModel(plan, schema, seed=1)
    torch.autograd.backward(model(data.slice(0, 3)).sum())
    gate = model.net.tower[0]  # type: ignore[index]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in gate.parameters())


def test_hidden_fields_have_no_role(schema: Schema) -> None:
    schema = replace(schema, hidden=("age",))
    module = FeatureGate(name="s", role="user", hidden=5).build(13, Build(schema=schema, seed=1))
    assert module.get_parameter("mlp.0.weight").shape == (4, 5)


def test_as_embedded_reads_the_embeddings_not_its_inputs(stage_by_hand: Callable) -> None:
    stage = stage_by_hand(AsEmbedded(name="s"), num_inputs=3)
    z_BN = torch.ones(2, 17)
    assert stage.module(torch.zeros(2, 3), stage.context(z_BN)) is z_BN
    assert stage.module.num_outputs == 17


def test_streams_that_heads_do_not_divide_are_refused(schema: Schema) -> None:
    with pytest.raises(SettingError, match="widths 6 and 3, 2 heads"):
        BilinearFusion(name="s", width=6, heads=2).build(9, Build(schema=schema, seed=1))


def test_the_head_needs_an_output_that_its_heads_divide(plan_of: Callable[[str], Plan]) -> None:
    assert plan_of("finalmlp[heads=4]").output_heads == 4


@pytest.mark.parametrize("settings", ["first_role=none,second_role=shop", "gating=false", "heads=4"])
def test_other_settings_keep_the_contract(settings: str) -> None:
    findings = check("plain", backbones=[f"finalmlp[{settings}]"])
    assert [finding for finding in findings if not finding.ok] == []


@pytest.mark.parametrize("settings", ["first_role=usr", "heads=0", "gate_hidden=0"])
def test_impossible_settings_are_refused(settings: str, plan_of: Callable[[str], Plan]) -> None:
    with pytest.raises(SettingError, match=r"the setting \w+ of finalmlp must be"):
        plan_of(f"finalmlp[{settings}]")


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ("hidden=8-5", "heads must divide"),
        ("gating=false,first_role=item", "first_role has no effect"),
        ("gating=false,gate_hidden=8", "gate_hidden has no effect"),
    ],
)
def test_widths_that_heads_do_not_divide_are_refused(
    settings: str, remedy: str, plan_of: Callable[[str], Plan]
) -> None:
    with pytest.raises(SettingError, match=remedy):
        plan_of(f"finalmlp[{settings}]")
