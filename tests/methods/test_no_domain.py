"""Plain without domain features; how fields are hidden is tested with embeddings and model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.no_domain import NoDomain
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.plugins.registry import select
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
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    ids_BF = data.ids_BF.clone()
    ids_BF[:, :2] = ids_BF[order, :2]
    other = replace(data, ids_BF=ids_BF, domain_B=data.domain_B[order], indicator_B=data.indicator_B[order])
    assert (other.indicator_B != data.indicator_B).sum() > 100
    assert (score_rows(model, other) == before).all()


def test_the_rest_of_the_plan_is_the_backbones() -> None:
    plan, base = NoDomain().apply(Dcnv2().plan()), Dcnv2().plan()
    assert plan.hides_domain
    assert (plan.tower, plan.interactions, plan.head) == (base.tower, base.interactions, base.head)


@pytest.mark.parametrize(
    ("setting", "why"),
    [("aux=domain", "reads e_d"), ("aux=all", "read the domain"), ("norm=pn", "read the domain")],
)
def test_settings_that_read_the_domain_are_refused(setting: str, why: str) -> None:
    with pytest.raises(SettingError, match=why):
        _ = select("methods", f"no_domain[{setting}]").value
