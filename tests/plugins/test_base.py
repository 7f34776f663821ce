"""Base classes of plug-ins: declared capabilities, settings without effect, and the examples of their docstrings."""

from __future__ import annotations

import doctest
from collections.abc import Iterable

import pytest

from ctrbench import added_fields
from ctrbench.data.batches import SplitData
from ctrbench.errors import ContractError, SettingError
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.pooling import Pooling
from ctrbench.plugins import base
from ctrbench.plugins.base import Backbone, Method, Settings
from ctrbench.plugins.inspection import Inspection
from ctrbench.plugins.registry import select


@pytest.mark.parametrize("module", [base, added_fields])
def test_the_examples_of_the_docstrings_run(module: object) -> None:
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)  # type: ignore[arg-type]
    assert (result.failed, result.attempted > 0) == (0, True)


class Gate(Settings):
    """A setting that another one switches off."""

    learned: bool = True
    factor: float = 1.0

    def idle(self) -> Iterable[str]:
        """Return the factor of a learned gate."""
        return ("factor",) if self.learned else ()


def test_a_setting_without_effect_is_refused() -> None:
    assert Gate(learned=False, factor=0.5).factor == 0.5
    with pytest.raises(ValueError, match="factor has no effect with these settings"):
        Gate(factor=0.5)


def test_a_setting_without_effect_may_repeat_its_default() -> None:
    assert Gate(factor=1.0) == Gate()


def test_a_backbone_refuses_the_auxiliary_weight_of_another_pooling() -> None:
    class Bare(Backbone):
        """A backbone that overrides nothing."""

        def plan(self) -> Plan:
            """Return the tower and the head."""
            return Plan(tower=self.tower(), head=self.output())

    assert Bare(pooling="dien", pooling_aux=0.5).full_plan().pooling.aux_weight == 0.5
    with pytest.raises(ValueError, match="pooling_aux has no effect"):
        Bare(pooling="din", pooling_aux=0.5)


class Silent(Method):
    """A method that does not inspect models."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan unchanged."""
        return plan


def inspect_nothing(self: Method, model: CTRModel, test: SplitData) -> Inspection:
    raise AssertionError


def test_inspect_is_declared() -> None:
    with pytest.raises(TypeError, match="Undeclared overrides inspect and must set inspects = True"):
        type("Undeclared", (Silent,), {"inspect": inspect_nothing, "__module__": __name__})

    class Declared(Silent):
        """A method that inspects models."""

        inspects = True
        inspect = inspect_nothing

    assert Declared.inspects
    assert not Silent.inspects


@pytest.mark.parametrize("pooling", ["mean", "din"])
def test_the_weight_of_the_auxiliary_loss_needs_dien(pooling: str) -> None:
    with pytest.raises(SettingError, match="pooling_aux has no effect"):
        _ = select("backbones", f"dnn[pooling={pooling},pooling_aux=0.5]").value


def test_every_backbone_has_the_pooling_settings() -> None:
    for name in ("dnn", "dcnv2", "deepfm"):
        plan = select("backbones", f"{name}[pooling=dien,pooling_aux=0.5]").value.full_plan()  # type: ignore[union-attr]
        assert plan.pooling == Pooling(kind="dien", aux_weight=0.5)


def test_default_pooling_is_not_part_of_a_run_key() -> None:
    assert not {"pooling", "pooling_aux"} & set(select("backbones", "dnn").value.key())
    assert select("backbones", "dnn[pooling=din]").value.key()["pooling"] == "din"


@pytest.mark.parametrize("reason", [3, "", [], print])
def test_a_reason_that_is_no_text_is_refused(reason: object) -> None:
    class Odd(Method):
        """A method whose reason is no text."""

        def rewrite(self, plan: Plan) -> Plan:
            """Return the plan."""
            return plan

        def supports(self, plan: Plan) -> str | None:
            """Return anything."""
            return reason  # type: ignore[return-value]

    with pytest.raises(ContractError, match="must return None or a reason"):
        Odd().unsupported_reason(Plan(tower=(), head=Backbone.output()))
