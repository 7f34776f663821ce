from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.stages import Dense
from ctrbench.plugins.registry import select


def plan_of(selector: str) -> Plan:
    plan: Plan = select("backbones", selector).value.plan()
    return plan


def test_the_plan_is_tower_and_linear_head() -> None:
    widths = ((128, "tower0"), (64, "tower1"), (32, "tower2"))
    tower = tuple(Dense(name=name, width=width, activation="tanh") for width, name in widths)
    assert plan_of("dnn") == Plan(tower=tower, head=(Dense(name="head", width=1),))


def test_widths_and_activation_can_be_set() -> None:
    tower = plan_of("dnn[hidden=5,activation=relu]").tower
    assert tower == (Dense(name="tower0", width=5, activation="relu"),)


def test_logits_by_hand(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    model, batch = build_model(backbone="dnn[hidden=8-4]"), data.slice(0, 7)
    weight = {name.removeprefix("net."): value for name, value in model.state_dict().items()}
    h = model.embedding(batch)[0].detach()
    for layer in ("tower.0", "tower.1"):
        h = torch.tanh(h @ weight[f"{layer}.weight"] + weight[f"{layer}.bias"])
    expected = (h @ weight["head.0.weight"] + weight["head.0.bias"])[:, 0]
    torch.testing.assert_close(model(batch).detach(), expected)


@pytest.mark.parametrize("settings", ["activation=gelu", "hidden=none", "hidden=8-x"])
def test_impossible_settings_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match=r"dnn|name=value"):
        plan_of(f"dnn[{settings}]")
