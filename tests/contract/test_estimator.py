from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ctrbench.contract.check import Finding, check
from ctrbench.contract.rules import ESTIMATOR_RULES

Check = Callable[..., dict[str, Finding]]

BROKEN = {
    "nan": ("finite training", "finite logits", {"logits": "x = x * float('nan')"}),
    "one row short": ("finite training", r"shape \(40,\), but got shape \(39,\)", {"logits": "x = x[1:]"}),
    "loss of nan": ("finite training", "finite training loss", {"fit": "loss = float('nan')"}),
    "squeeze": ("batch of one", "one row to give", {"logits": "x = x.squeeze()"}),
    "order of rows": ("row order", "in another order", {"logits": "x = x + np.arange(len(x))"}),
    "mean of the rows": ("batch independence", "alone as in a batch", {"logits": "x = x - x.mean()"}),
    "noise": ("repeatable scores", "randomness", {"logits": "x = x + np.random.rand()"}),
    "unseen": (
        "unseen domain",
        "not seen in training",
        {"logits": "x = np.where(x[0] == x.max(), np.nan, x)"},
    ),
    "labels flipped": ("inputs unchanged", "label_B changed", {"fit": "loss = 0.5; train.label_B.mul_(0.5)"}),
    "labels read": ("label independence", "depend on the labels", {"logits": "x = x + data.label_B.numpy()"}),
    "noise in the fit": ("seed", "the same fit", {"fit": "loss = 0.5; number += np.random.rand()"}),
    "one side": ("both signs", "a negative logit", {"logits": "x = np.abs(x)"}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_rule_can_fail(check_estimator: Check, case: str) -> None:
    rule, sentence, parts = BROKEN[case]
    finding = check_estimator(rules=("finite training", rule), **parts)[rule]
    assert not finding.ok
    assert re.search(sentence, finding.sentence)


def test_every_rule_has_an_estimator_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BROKEN.values()} == {rule.name for rule in ESTIMATOR_RULES}


def test_a_sound_estimator_passes(check_estimator: Check) -> None:
    findings = check_estimator()
    assert [finding for finding in findings.values() if not finding.ok] == []
    assert set(findings) == {rule.name for rule in ESTIMATOR_RULES}


def test_an_estimator_is_skipped_on_other_backbones_than_dnn() -> None:
    (finding,) = check("gbdt", backbones=["dcnv2"])
    assert (finding.rule, finding.is_skipped) == ("supports", True)
    assert finding.sentence == "skipped: has no backbone and runs on dnn only"
