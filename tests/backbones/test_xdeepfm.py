from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ctrbench.backbones.xdeepfm import CompressedInteraction
from ctrbench.contract.check import check
from ctrbench.errors import SettingError
from ctrbench.nn.plan import Plan


def test_the_plan_is_dnn_with_cin_and_linear_logit(plan_of: Callable[[str], Plan]) -> None:
    plan, dnn = plan_of("xdeepfm[cin=8-6]"), plan_of("dnn")
    assert (plan.tower, plan.head, plan.join) == (dnn.tower, dnn.head, "parallel")
    assert plan.interactions == (CompressedInteraction(name="cin", widths=(8, 6)),)
    assert [stage.name for stage in plan.logits] == ["linear"]
    assert plan.first_order


def layer(maps: np.ndarray, fields: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x^k_h = Σ_ij W_ijh (x^{k-1}_i ⊙ x^0_j)."""
    return np.einsum("bie,bje,ijh->bhe", maps, fields, weight)


@pytest.mark.parametrize("split_half", [False, True])
def test_logits_are_linear_cin_and_tower(split_half: bool, by_hand: Callable) -> None:
    found = by_hand(f"xdeepfm[hidden=8-4,cin=4-3,split_half={split_half}]")
    fields = found.fields("interactions.0.fields.numbers")
    first = layer(fields, fields, found.weight["interactions.0.weights.0"])
    on, out = (first[:, :2], first[:, 2:]) if split_half else (first, first)
    second = layer(on, fields, found.weight["interactions.0.weights.1"])
    joined = np.concatenate([out.sum(2), second.sum(2), found.tower(found.z)], axis=1)
    found.expect(found.linear("logits.0") + found.dense(joined, "head.0")[:, 0])


def cin_by_hand(fields: list[np.ndarray], weights: list[np.ndarray], *, split_half: bool) -> np.ndarray:
    """Σ_e of the maps that go to the output, map by map."""
    maps, sums = fields, []
    for index, weight in enumerate(weights):
        new = [
            sum(weight[i, j, h] * maps[i] * fields[j] for i in range(len(maps)) for j in range(len(fields)))
            for h in range(weight.shape[2])
        ]
        is_split = split_half and index < len(weights) - 1
        half = len(new) // 2 if is_split else 0
        sums += [feature_map.sum() for feature_map in new[half:]]
        maps = new[:half] if is_split else new
    return np.array(sums)


@pytest.mark.parametrize("split_half", [False, True])
@pytest.mark.parametrize("widths", [(3,), (4, 3), (4, 6, 2)])
def test_any_number_of_layers_by_hand(
    widths: tuple[int, ...], split_half: bool, stage_by_hand: Callable
) -> None:
    stage = stage_by_hand(CompressedInteraction(name="s", widths=widths, split_half=split_half), scale=0.3)
    weights = [stage.weight[f"weights.{index}"] for index in range(len(widths))]
    assert weights[0].shape == (5, 5, widths[0])
    stage.expect(lambda row: cin_by_hand(stage.fields(row), weights, split_half=split_half))


@pytest.mark.parametrize("settings", ["cin=5", "cin=4-4-4", "cin=4-6-3,split_half=true"])
def test_other_sizes_keep_the_contract(settings: str) -> None:
    findings = check("plain", backbones=[f"xdeepfm[{settings}]"])
    assert [finding for finding in findings if not finding.ok] == []


@pytest.mark.parametrize("settings", ["cin=0", "cin=4-0", "cin=none", "split_half=perhaps"])
def test_impossible_settings_are_refused(settings: str, plan_of: Callable[[str], Plan]) -> None:
    with pytest.raises(SettingError, match=r"the setting \w+ of xdeepfm must be"):
        plan_of(f"xdeepfm[{settings}]")


@pytest.mark.parametrize(
    ("settings", "remedy"), [("cin=4,split_half=true", "no effect"), ("cin=3-4,split_half=true", "even")]
)
def test_odd_numbers_of_maps_cannot_be_split(
    settings: str, remedy: str, plan_of: Callable[[str], Plan]
) -> None:
    with pytest.raises(SettingError, match=remedy):
        plan_of(f"xdeepfm[{settings}]")
