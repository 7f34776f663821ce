from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ctrbench.contract.check import Finding, builtin_backbones, check
from ctrbench.contract.rules import RULES
from ctrbench.errors import ContractError, SettingError
from ctrbench.failures import raised_signals
from ctrbench.plugins.registry import plugins
from ctrbench.plugins.scaffold import new_method

Check = Callable[..., dict[str, Finding]]


def test_every_backbone_is_tried_in_every_structure() -> None:
    backbones = list(builtin_backbones())
    assert {name.partition("[")[0] for name in backbones} == set(plugins("backbones"))
    assert {"dcnv2[structure=stacked]", "dnn[pooling=din]", "dnn[pooling=dien]"} <= set(backbones)


def test_an_unsupported_pair_is_skipped_with_its_reason(check_method: Check) -> None:
    reason = "def supports(self, plan):\n    return 'one layer is not enough'"
    (finding,) = check_method(of_method=reason).values()
    assert (finding.rule, finding.ok, finding.is_skipped) == ("supports", True, True)
    assert finding.sentence == "skipped: one layer is not enough"


def test_an_exception_in_supports_is_a_finding(check_method: Check) -> None:
    (finding,) = check_method(of_method="def supports(self, plan):\n    return plan.depth").values()
    assert (finding.ok, finding.is_skipped) == (False, False)
    assert "AttributeError" in finding.sentence


def test_a_model_that_cannot_be_trained_is_reported_once(check_method: Check) -> None:
    assert set(check_method(forward="raise KeyError(3)")) == {"finite training"}


def test_chosen_rules_are_checked_alone(check_method: Check) -> None:
    assert list(check_method(rules=("seed", "logits"))) == ["logits", "seed"]


def test_an_unknown_rule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingError, match="did you mean 'logits'"):
        check("plain", rules=["logit"])


def test_a_file_that_does_not_import_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("import no_such_module_anywhere\n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"cannot be imported: .*no_such_module_anywhere"):
        check(str(file))


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingError, match="did you mean 'plain'"):
        check("plane")


def test_random_state_and_threads_are_restored(check_method: Check) -> None:
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    check_method(forward="raise KeyError(3)")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_template_passes_on_every_backbone(tmp_path: Path) -> None:
    findings = check(str(new_method("my_gate", tmp_path)))
    assert len(findings) == len(list(builtin_backbones())) * len(RULES)
    assert [finding for finding in findings if not finding.ok] == []


FAULTY_INIT = """
import sys
from ctrbench.extend import {base}, Plan


class Mine({base}):
    def __init__(self, **settings):
        {statement}

    def rewrite(self, plan):
        return plan

    def plan(self):
        return Plan(tower=self.tower(), head=self.output())
"""
STATEMENTS = [
    "sys.exit(0)",
    "sys.exit('bye')",
    "raise KeyboardInterrupt",
    "raise BaseException('x')",
    "1 / 0",
]


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("base", ["Method", "Backbone"])
def test_an_exception_in_the_constructor_is_a_finding(tmp_path: Path, base: str, statement: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FAULTY_INIT.format(base=base, statement=statement), encoding="utf-8")
    is_method = base == "Method"
    with raised_signals():
        findings = check(
            str(file) if is_method else "plain", backbones=["dnn", "pnn"] if is_method else [str(file)]
        )
    assert [finding.rule for finding in findings] == ["construction"] * len(findings)
    assert len(findings) == (2 if is_method else 1)
    assert not any(finding.ok or finding.is_skipped for finding in findings)
    assert "mine.py, line 8, in __init__ raised" in findings[0].sentence


def test_a_constructor_that_returns_a_value_is_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FAULTY_INIT.format(base="Method", statement="return 3"), encoding="utf-8")
    (finding,) = check(str(file), backbones=["dnn"])
    assert (finding.rule, finding.ok) == ("construction", False)
    assert str(file) in finding.sentence


def test_settings_that_a_method_refuses_are_no_finding() -> None:
    with pytest.raises(SettingError, match="no such setting"):
        check("plain[nope=1]")
