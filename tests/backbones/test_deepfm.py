from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan


def test_the_plan_is_dnn_and_two_logits(plan_of: Callable[[str], Plan]) -> None:
    plan, dnn = plan_of("deepfm"), plan_of("dnn")
    assert (plan.tower, plan.head, plan.interactions) == (dnn.tower, dnn.head, ())
    assert [stage.name for stage in plan.logits] == ["linear", "fm"]
    assert plan.first_order


def test_logits_are_first_order_pairs_and_tower(by_hand: Callable) -> None:
    found = by_hand("deepfm[hidden=8-4]")
    fields = found.fields("logits.1.fields.numbers")
    pairs = sum((fields[:, i] * fields[:, j]).sum(1) for i, j in combinations(range(5), 2))
    found.expect(found.linear("logits.0") + pairs + found.dense(found.tower(found.z), "head.0")[:, 0])


def test_fm_and_tower_share_embeddings(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    model = build_model(backbone="deepfm[hidden=8-4]")
    dnn = build_model(backbone="dnn[hidden=8-4]")
    ids = len(model.embedding.table.weight)
    # A weight for each id, one for the number, and the number's vector.
    more = {name: n - dnn.num_parameters()[name] for name, n in model.num_parameters().items()}
    assert more == {"embedding": ids, "dense": 1 + 4, "per_domain": 0}
    assert model(data.slice(0, 5)).shape == (5,)
