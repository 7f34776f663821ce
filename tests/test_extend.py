"""Parts that every method has: normalization, the auxiliary network, and settings in a run's key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.extend import Method, Plan, added_field
from ctrbench.methods.plain import Plain
from ctrbench.methods.star import Star
from ctrbench.nn.auxiliary import Auxiliary
from ctrbench.nn.model import CTRModel
from ctrbench.nn.norms import BatchNorm, LayerNorm, PartitionedNorm
from ctrbench.plugins.registry import select

NORMS = {"bn": BatchNorm, "ln": LayerNorm, "pn": PartitionedNorm}


class Example(Method):
    """A method with a setting that was added later."""

    old: int = 1
    new: int = added_field(2)

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan unchanged."""
        return plan


def test_a_key_leaves_out_unchanged_later_settings() -> None:
    assert Example().key() == {"old": 1}
    assert Example(new=3).key() == {"old": 1, "new": 3}
    assert Example(norm="bn").key() == {"old": 1, "norm": "bn"}


def test_a_key_holds_an_inherited_setting_that_a_method_redefines() -> None:
    assert Star().key()["norm"] == "pn"
    assert Star(norm=None).key()["norm"] is None


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("backbone", ["dnn", "dcnv2", "dcnv2[structure=stacked]"])
def test_normalization_is_the_first_stage_of_the_tower(norm: str, backbone: str) -> None:
    plan = select("backbones", backbone).value.plan()
    applied = Plain(norm=norm).apply(plan)
    assert isinstance(applied.tower[0], NORMS[norm])
    assert applied.tower[1:] == plan.tower
    assert applied.interactions == plan.interactions


@pytest.mark.parametrize("sees", ["all", "domain"])
def test_the_auxiliary_network_is_a_further_logit(
    build_model: Callable[..., CTRModel], data: SplitData, sees: str
) -> None:
    assert Plain(aux=sees).apply(Plan(tower=(), head=())).logits == (Auxiliary(name="aux", sees=sees),)
    model, batch = build_model(f"plain[aux={sees}]"), data.slice(0, 9)
    assert torch.equal(model(batch), build_model("plain")(batch))
    torch.nn.init.ones_(model.get_parameter("net.logits.0.output.weight"))
    assert (model(batch) != build_model("plain")(batch)).all()


def test_without_norm_and_aux_the_plan_is_unchanged() -> None:
    plan = Plan(tower=(), head=())
    assert Plain().apply(plan) == plan


def test_unknown_values_are_refused() -> None:
    with pytest.raises(SettingError, match="norm"):
        _ = select("methods", "plain[norm=xn]").value
