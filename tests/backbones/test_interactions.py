"""Facts that hold for the interactions of every backbone that work on the fields of z."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ctrbench.backbones.autoint import FieldAttention
from ctrbench.backbones.deepfm import FactorizationMachine
from ctrbench.backbones.finalmlp import FeatureGate
from ctrbench.backbones.pnn import FieldProducts
from ctrbench.backbones.xdeepfm import CompressedInteraction
from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.interactions import FirstOrder
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Stage

STAGES: tuple[Stage, ...] = (
    FirstOrder(name="s"),
    FactorizationMachine(name="s"),
    FieldProducts(name="s", products="both"),
    FieldAttention(name="s", layers=2, heads=2, head_size=3),
    CompressedInteraction(name="s", widths=(6, 4, 3)),
    FeatureGate(name="s", role="user", hidden=5),
)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_inputs_of_another_width_are_refused(stage: Stage, schema: Schema) -> None:
    with pytest.raises(SettingError, match=r"fields of the input vector.*18 inputs, not 17"):
        stage.build(18, Build(schema=schema, seed=1))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_second_derivatives_exist(stage: Stage, stage_by_hand: Callable) -> None:
    built = stage_by_hand(stage)
    module, x_BN = built.module.double(), built.x_BN[:2].double().requires_grad_()
    context = built.context(x_BN)
    assert torch.autograd.gradgradcheck(lambda x: module(x, context), (x_BN,))
