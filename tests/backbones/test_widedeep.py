from __future__ import annotations

from collections.abc import Callable

import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan


def test_the_plan_is_dnn_and_a_linear_logit(plan_of: Callable[[str], Plan]) -> None:
    plan, dnn = plan_of("widedeep"), plan_of("dnn")
    assert (plan.tower, plan.head, plan.interactions) == (dnn.tower, dnn.head, ())
    assert [stage.name for stage in plan.logits] == ["wide"]
    assert plan.first_order


def test_logits_are_linear_and_tower(by_hand: Callable) -> None:
    found = by_hand("widedeep[hidden=8-4]")
    found.expect(found.linear("logits.0") + found.dense(found.tower(found.z), "head.0")[:, 0])


def test_the_wide_part_starts_at_zero(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    wide, dnn = build_model(backbone="widedeep[hidden=8-4]"), build_model(backbone="dnn[hidden=8-4]")
    assert torch.equal(wide(data.slice(0, 9)), dnn(data.slice(0, 9)))
