from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

import pytest
import torch
from torch import nn

from ctrbench.errors import ContractError
from ctrbench.nn.build import Build
from ctrbench.nn.capabilities import NAMES, Capabilities, refused_workers
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Dense, StageModule
from ctrbench.plugins.registry import plugins, select

HEAD = (Dense(name="head", width=1),)


def test_the_names_are_the_attributes_of_the_base_class() -> None:
    assert set(NAMES) == {name for name in vars(Capabilities) if not name.startswith("_")}


def models(schema: Schema) -> Iterator[CTRModel]:
    """Every method and backbone with default settings."""
    pairs = [(name, "dnn") for name in plugins("methods")] + [
        ("plain", name) for name in plugins("backbones")
    ]
    for method, backbone in pairs:
        rewriter, base = select("methods", method).value, select("backbones", backbone).value
        if rewriter.as_estimator() is None:
            yield CTRModel(rewriter.apply(base.plan()), schema, seed=1)


def test_no_module_declares_a_misspelled_capability(schema: Schema) -> None:
    misspelled = {
        f"{type(module).__name__}.{name}"
        for model in models(schema)
        for module in model.modules()
        if type(module).__module__.startswith("ctrbench.")
        for name in {*vars(type(module)), *vars(module)}
        if name not in NAMES and get_close_matches(name, NAMES, cutoff=0.8)
    }
    assert misspelled == set()


class Silent(nn.Module):
    """Declares a capability without the base class, so it would be ignored."""

    of_domains = True


class Holder(StageModule):
    num_outputs = 1

    def __init__(self) -> None:
        super().__init__()
        self.inner = Silent()

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        return x_BN[:, :1]


class Held(Dense):
    def build(self, num_inputs: int, build: object) -> StageModule:
        return Holder()


def test_a_declaration_without_the_base_class_is_refused(schema: Schema) -> None:
    plan = Plan(tower=(), head=(Held(name="held", width=1),))
    with pytest.raises(
        ContractError, match=r"declares of_domains.*Silent.*class Silent\(Module, Capabilities\)"
    ):
        CTRModel(plan, schema, seed=1)


class Exchanging(Dense):
    """A stage that exchanges values between workers, as a plug-in may define it."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        module = super().build(num_inputs, build)
        module.uses_team = True
        return module


@pytest.mark.parametrize("stage", [Dense, Exchanging])
def test_networks_of_single_domains_refuse_workers_if_a_stage_exchanges_values(
    schema: Schema, stage: type[Dense]
) -> None:
    plan = Plan(tower=(stage(name="tower", width=2),), head=HEAD, separate=64)
    reason = refused_workers(CTRModel(plan, schema, seed=1)) or ""
    assert ("exchanges values between workers" in reason) is (stage is Exchanging)


class Refusing(nn.Module, Capabilities):
    def __init__(self, reason: str) -> None:
        super().__init__()
        self.refuses_workers = reason


def test_the_first_reason_against_several_workers_is_returned() -> None:
    assert refused_workers(nn.Sequential(nn.Identity(), Refusing("first"), Refusing("second"))) == "first"


def test_modules_without_a_reason_allow_several_workers(schema: Schema) -> None:
    assert refused_workers(CTRModel(Plan(tower=(), head=HEAD), schema, seed=1)) is None
