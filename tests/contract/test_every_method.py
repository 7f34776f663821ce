from __future__ import annotations

import pytest

from ctrbench.contract.check import builtin_backbones, check
from ctrbench.plugins.registry import plugins

SMALL = "dnn[hidden=8-4]"


def with_narrow_tower(backbone: str) -> str:
    """Add two narrow layers to a selector, since wide ones take longer to train."""
    return f"{backbone.removesuffix(']')}{',' if '[' in backbone else '['}hidden=8-4]"


@pytest.mark.parametrize("method", plugins("methods"))
def test_every_method_keeps_the_contract_on_every_backbone(method: str) -> None:
    findings = check(method, backbones=[with_narrow_tower(backbone) for backbone in builtin_backbones()])
    assert [finding for finding in findings if not finding.ok] == []


@pytest.mark.parametrize(
    "method",
    [
        "adasparse[form=scaling]",
        "adasparse[form=binarization]",
        "adasparse[pruner_init=zero]",
        "maml[paml_lr=true]",
        "star[norm=none]",
        "star[batching=mixed]",
        "apg[version=v2]",
        "apg[condition=self]",
        "maml[variant=reptile]",
        "maml[variant=second_order]",
        "maml[tasks=2,support=16,query=16]",
    ],
)
def test_other_settings_keep_the_contract(method: str) -> None:
    assert [finding for finding in check(method, backbones=[SMALL]) if not finding.ok] == []


def test_a_gate_without_a_gradient_breaks_the_rule_about_gradients() -> None:
    findings = check("adasparse[gradient=zero]", backbones=[SMALL])
    assert [finding.rule for finding in findings if not finding.ok] == ["gradients"]
