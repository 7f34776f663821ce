from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest

from ctrbench.contract.check import check
from ctrbench.errors import SettingError
from ctrbench.nn.plan import Plan

VECTORS = "interactions.0.fields.numbers"


def test_the_plan_puts_products_below_the_tower_of_dnn(plan_of: Callable[[str], Plan]) -> None:
    plan, dnn = plan_of("pnn"), plan_of("dnn")
    assert (plan.tower, plan.head, plan.join) == (dnn.tower, dnn.head, "stacked")
    assert [stage.name for stage in plan.interactions] == ["products"]
    assert not plan.first_order


def inner(fields: np.ndarray) -> list[np.ndarray]:
    return [(fields[:, i] * fields[:, j]).sum(1) for i, j in combinations(range(5), 2)]


def outer(fields: np.ndarray) -> list[np.ndarray]:
    """All of Σ_i Σ_j v_i v_j^T, in which an entry and its mirror image are one."""
    total = np.einsum("bie,bjf->bef", fields, fields)
    return [total[:, a, b] for a, b in combinations_with_replacement(range(4), 2)]


@pytest.mark.parametrize(
    ("products", "kinds"), [("inner", (inner,)), ("outer", (outer,)), ("both", (inner, outer))]
)
def test_logits_are_the_tower_on_signals_and_products(
    products: str, kinds: tuple[Callable, ...], by_hand: Callable
) -> None:
    found = by_hand(f"pnn[hidden=8-4,products={products}]")
    columns = [column for kind in kinds for column in kind(found.fields(VECTORS))]
    layer = np.concatenate([found.z, np.stack(columns, axis=1)], axis=1)
    found.expect(found.dense(found.tower(layer), "head.0")[:, 0])


@pytest.mark.parametrize("products", ["outer", "both"])
def test_other_products_keep_the_contract(products: str) -> None:
    findings = check("plain", backbones=[f"pnn[products={products}]"])
    assert [finding for finding in findings if not finding.ok] == []


def test_other_products_are_refused(plan_of: Callable[[str], Plan]) -> None:
    with pytest.raises(SettingError, match="the setting products of pnn must be"):
        plan_of("pnn[products=kernel]")
