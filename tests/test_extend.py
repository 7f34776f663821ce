"""What every method has: normalisation, the auxiliary network, and settings in a run's key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.extend import Method, Plan, later
from ctrbench.methods.plain import Plain
from ctrbench.methods.star import Star
from ctrbench.nn.model import CTRModel
from ctrbench.nn.norms import BatchNorm, LayerNorm, PartitionedNorm
from ctrbench.nn.stages import Auxiliary
from ctrbench.plugins.registry import select

NORMS = {"bn": BatchNorm, "ln": LayerNorm, "pn": PartitionedNorm}


class Example(Method):
    """A method whose settings came at two times."""

    old: int = 1
    new: int = later(2)

    def rewrite(self, plan: Plan) -> Plan:
        """Change nothing."""
        return plan


def test_a_key_leaves_out_defaults_of_settings_that_came_later() -> None:
    assert Example().key() == {"old": 1}
    assert Example(new=3).key() == {"old": 1, "new": 3}
    assert Example(norm="bn").key() == {"old": 1, "norm": "bn"}


def test_a_key_names_again_what_a_method_declares_itself() -> None:
    assert Star().key()["norm"] == "pn"
    assert Star(norm=None).key()["norm"] is None


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("backbone", ["dnn", "dcnv2", "dcnv2[structure=stacked]"])
def test_normalisation_stands_first_in_the_tower(norm: str, backbone: str) -> None:
    plan = select("backbones", backbone).value.plan()  # type: ignore[union-attr]
    applied = Plain(norm=norm).apply(plan)
    assert isinstance(applied.tower[0], NORMS[norm])
    assert applied.tower[1:] == plan.tower
    assert applied.interactions == plan.interactions


@pytest.mark.parametrize("sees", ["all", "domain"])
def test_the_auxiliary_network_is_one_more_logit(
    build_model: Callable[..., CTRModel], data: SplitData, sees: str
) -> None:
    assert Plain(aux=sees).apply(Plan(tower=(), head=())).logits == (Auxiliary(name="aux", sees=sees),)
    model, batch = build_model(f"plain[aux={sees}]"), data.slice(0, 9)
    assert torch.equal(model(batch), build_model("plain")(batch))
    torch.nn.init.ones_(model.get_parameter("net.logits.0.output.weight"))
    assert (model(batch) != build_model("plain")(batch)).all()


def test_without_either_nothing_is_added() -> None:
    plan = Plan(tower=(), head=())
    assert Plain().apply(plan) == plan


def test_settings_are_those_known() -> None:
    with pytest.raises(SettingError, match="norm"):
        _ = select("methods", "plain[norm=xn]").value
