from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ctrbench.backbones.autoint import FieldAttention
from ctrbench.contract.check import check
from ctrbench.errors import SettingError
from ctrbench.nn.plan import Plan


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_the_plan_is_the_tower_of_dnn_and_attention(structure: str, plan_of: Callable[[str], Plan]) -> None:
    plan, dnn = plan_of(f"autoint[structure={structure}]"), plan_of("dnn")
    assert (plan.tower, plan.head, plan.join) == (dnn.tower, dnn.head, structure)
    assert plan.interactions == (FieldAttention(name="attention", layers=3, heads=2, head_size=8),)


def attention(fields: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """One layer of one head."""
    query, key, value, rest = (fields @ part for part in np.split(weight, 4, axis=1))
    share = np.exp(query @ key.transpose(0, 2, 1))
    share /= share.sum(2, keepdims=True)
    return np.maximum(share @ value + rest, 0.0)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_logits_by_hand(structure: str, by_hand: Callable) -> None:
    found = by_hand(f"autoint[hidden=8-4,layers=2,heads=1,head_size=3,structure={structure}]")
    fields = found.fields("interactions.0.fields.numbers")
    for layer in range(2):
        fields = attention(fields, found.weight[f"interactions.0.weights.{layer}"])
    crossed = fields.reshape(found.rows, -1)
    if structure == "parallel":
        joined = np.concatenate([crossed, found.tower(found.z)], axis=1)
    else:
        joined = found.tower(crossed)
    found.expect(found.dense(joined, "head.0")[:, 0])


def attention_of_heads(fields: list[np.ndarray], weight: np.ndarray, heads: int) -> list[np.ndarray]:
    """One layer, head by head and field by field."""
    query, key, value, rest = np.split(weight, 4, axis=1)
    mixed_fields = []
    for field in fields:
        parts = []
        for columns in np.split(np.arange(query.shape[1]), heads):
            scores = np.array([(field @ query[:, columns]) @ (other @ key[:, columns]) for other in fields])
            share = np.exp(scores - scores.max())
            share /= share.sum()
            parts.append(sum(a * (other @ value[:, columns]) for a, other in zip(share, fields, strict=True)))
        mixed_fields.append(np.maximum(np.concatenate(parts) + field @ rest, 0.0))
    return mixed_fields


def test_each_head_has_its_own_columns(stage_by_hand: Callable) -> None:
    stage = stage_by_hand(FieldAttention(name="s", layers=2, heads=2, head_size=3), scale=0.5)
    assert stage.weight["weights.0"].shape == (4, 4 * 6)
    assert stage.weight["weights.1"].shape == (6, 4 * 6)

    def expected(row: np.ndarray) -> np.ndarray:
        fields = stage.fields(row)
        for layer in range(2):
            fields = attention_of_heads(fields, stage.weight[f"weights.{layer}"], heads=2)
        return np.concatenate(fields)

    stage.expect(expected)


@pytest.mark.parametrize("settings", ["layers=1,heads=1,head_size=1", "layers=2,heads=3,head_size=5"])
def test_other_sizes_keep_the_contract(settings: str) -> None:
    findings = check("plain", backbones=[f"autoint[{settings}]"])
    assert [finding for finding in findings if not finding.ok] == []


@pytest.mark.parametrize("settings", ["layers=0", "heads=0", "head_size=0", "structure=alone"])
def test_impossible_settings_are_refused(settings: str, plan_of: Callable[[str], Plan]) -> None:
    with pytest.raises(SettingError, match=r"the setting \w+ of autoint must be"):
        plan_of(f"autoint[{settings}]")
