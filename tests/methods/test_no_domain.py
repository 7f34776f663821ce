"""Plain without domain features; how fields are hidden is tested with embeddings and model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.no_domain import NoDomain
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.registry import select
from ctrbench.train.learner import Learner, score_rows


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", "dcnv2[hidden=8-4]"])
def test_domain_ids_change_nothing_after_training(
    build_model: Callable[..., CTRModel], data: SplitData, backbone: str
) -> None:
    model = build_model("no_domain", backbone)
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    for batch in data.in_order(64):
        Learner().step(model, optimizer, batch)
    optimizer.flush()
    before = score_rows(model, data)
    data.ids_BF[:, :2] = torch.randint(0, 4, data.ids_BF[:, :2].shape, dtype=torch.int32)
    assert (score_rows(model, data) == before).all()


def test_the_rest_of_the_plan_is_the_backbones() -> None:
    plan, base = NoDomain().apply(Dcnv2().plan()), Dcnv2().plan()
    assert plan.hides_domain
    assert (plan.tower, plan.interactions, plan.head) == (base.tower, base.interactions, base.head)


@pytest.mark.parametrize(
    ("setting", "why"),
    [("aux=domain", "made of e_d"), ("aux=all", "tell the model its domain"), ("norm=pn", "tell the model")],
)
def test_what_would_tell_the_domain_is_refused(setting: str, why: str) -> None:
    with pytest.raises(SettingError, match=why):
        _ = select("methods", f"no_domain[{setting}]").value
