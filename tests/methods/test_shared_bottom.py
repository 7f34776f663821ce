"""Shared Bottom against explicit loops over rows: only embeddings are shared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.data.batches import SplitData
from ctrbench.methods.shared_bottom import SharedBottom
from ctrbench.nn.interactions import Cross
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.stages import DomainDense, DomainDenseModule

DCN = "dcnv2[hidden=8-4,layers=1]"
STACKED = "dcnv2[hidden=8-4,layers=1,structure=stacked]"


def layers(model: CTRModel) -> list[DomainDenseModule]:
    return [module for module in model.modules() if isinstance(module, DomainDenseModule)]


def test_each_row_runs_through_tower_and_head_of_its_domain(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, stir: Callable[[CTRModel], CTRModel]
) -> None:
    model, batch = stir(build_model("shared_bottom")), unseen_data.slice(0, 30)
    tables = [layer.domain.weight.detach().double().numpy() for layer in layers(model)]
    expected = []
    for z, p in zip(model.context(batch).z_BN.detach().double().numpy(), batch.indicator_B, strict=True):
        first, second, head = (table[p if p > 0 else 1] for table in tables)  # city 1 is the largest
        hidden = np.tanh(np.tanh(z @ first[:-1] + first[-1]) @ second[:-1] + second[-1])
        expected.append((hidden @ head[:-1] + head[-1])[0])
    assert 0 in batch.indicator_B
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", DCN, STACKED])
def test_heads_start_at_the_training_click_rate(build_model: Callable[..., CTRModel], backbone: str) -> None:
    own = build_model("shared_bottom", backbone)
    assert layers(own)[-1].domain.weight[:, -1].flatten().tolist() == pytest.approx([np.log(0.3 / 0.7)] * 7)


def test_interactions_stay_shared_and_dense_stages_belong_to_domains() -> None:
    plan = SharedBottom().apply(Dcnv2().plan())
    assert plan.interactions == Dcnv2().plan().interactions
    assert all(isinstance(stage, DomainDense) for stage in (*plan.tower, *plan.head))


def test_parameters_are_those_of_one_backbone_per_domain(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide; seven rows of (17 + 1) 8 + (8 + 1) 4 + (4 + 1) 1.
    counts = build_model("shared_bottom").num_parameters()
    assert (counts["per_domain"], counts["dense"]) == (7 * 185, 0)


def test_a_plan_without_a_tower_is_refused() -> None:
    assert "tower" in str(SharedBottom().supports(Plan(tower=(Cross(name="cross", layers=1),), head=())))
    assert SharedBottom().supports(Dcnv2().plan()) is None
