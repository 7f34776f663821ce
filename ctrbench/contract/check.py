"""The contract that every method keeps, built-in or from outside, on every backbone.

A method is trained for a few steps on synthetic rows, through the same code as a real run. Every rule is then a
function from that case to a sentence that says what is wrong, or None. A rule that raises is a broken rule, reported
with the line of the plug-in at fault, so no plug-in can stop a check.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from ctrbench.contract.case import Case
from ctrbench.contract.rows import SEED
from ctrbench.contract.rule import Check, Rule
from ctrbench.contract.rules import ESTIMATOR_RULES, RULES
from ctrbench.errors import ContractError, SettingError, did_you_mean
from ctrbench.failures import is_failure
from ctrbench.plugins.registry import Selected, plugins, select

SUPPORTS = "supports"
"""Name of the finding about a pair of method and backbone that is not checked."""
CONSTRUCTION = "construction"
"""Name of the finding about a plug-in that cannot be made from its settings, so that no rule is checked."""
SKIPPED = "skipped: "
"""Beginning of the sentence that explains why a pair is not checked."""
POOLED = {"dnn": ("dnn[pooling=din]", "dnn[pooling=dien]")}
"""Backbones with another pooling of sequences; pooling precedes the backbone's own stages, so one backbone suffices."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of one rule for a method on one backbone."""

    backbone: str
    rule: str
    ok: bool
    sentence: str
    """Explanation of a failure or of a skipped pair; empty otherwise."""
    statement: str = "supports(plan) returns a reason or None."
    """Statement of the rule."""

    @property
    def is_skipped(self) -> bool:
        """Whether the method does not support the backbone, so that no rule was checked."""
        return self.rule == SUPPORTS and self.ok


def check(
    selector_or_file: str,
    *,
    backbones: Sequence[str] | None = None,
    rules: Sequence[str] | None = None,
) -> tuple[Finding, ...]:
    """Check a method against the contract and return the findings in order.

    `backbones` are selectors (default: all built-in backbones in all structures), and `rules` are names (default: all
    rules). Raises `SettingError` for an unknown name and `ContractError` for a file that cannot be imported.
    """
    selected = select("methods", selector_or_file)
    names = tuple(backbones or builtin_backbones())
    fault = construction_fault(selected)
    if fault is not None:
        return tuple(_construction_finding(name, fault) for name in names)
    method = selected.value
    applicable = RULES if method.as_estimator() is None else ESTIMATOR_RULES
    chosen = _select_rules(applicable, rules)
    findings: list[Finding] = []
    with _restored_state():
        for name in names:
            base = select("backbones", name)
            fault = construction_fault(base)
            if fault is not None:
                findings.append(_construction_finding(name, fault))
                continue
            case = Case(backbone=name, method=method, plan=base.value.full_plan, file=selected.plugin.file)
            findings.extend(_check_case(case, chosen))
    return tuple(findings)


def construction_fault(selected: Selected[Any]) -> str | None:
    """Return a sentence on the exception with which a plug-in fails to be made from its settings, or None.

    Raises `SettingError` for settings that it refuses and `ContractError` for a file that cannot be imported.
    """
    selected.plugin.load()
    try:
        _ = selected.value
    except SettingError:
        raise
    except BaseException as error:  # a plug-in from outside may raise anything
        if selected.plugin.is_builtin or not is_failure(error):
            raise
        if isinstance(error, ContractError):
            return str(error)
        return _describe_exception(error, selected.plugin.file)
    return None


def _construction_finding(backbone: str, fault: str) -> Finding:
    statement = "__init__() makes the plug-in from its settings without an exception."
    return Finding(backbone=backbone, rule=CONSTRUCTION, ok=False, sentence=fault, statement=statement)


def _select_rules(rules: Sequence[Rule], names: Sequence[str] | None) -> list[Rule]:
    rule_names = [rule.name for rule in rules]
    for name in names or ():
        if name not in rule_names:
            raise SettingError(
                "unknown rule of the contract", value=name, remedy=did_you_mean(name, rule_names)
            )
    return [rule for rule in rules if names is None or rule.name in names]


def builtin_backbones() -> Iterator[str]:
    """Yield selectors of all built-in backbones: each with defaults, with other poolings, in other structures."""
    for name, plugin in plugins("backbones").items():
        if plugin.is_builtin:
            yield name
            yield from POOLED.get(name, ())
            structure = plugin.load().model_fields.get("structure")
            values = get_args(structure.annotation) if structure else ()
            yield from (
                f"{name}[structure={value}]" for value in values if structure and value != structure.default
            )


@contextmanager
def _restored_state() -> Iterator[None]:
    """Restore random states and the number of threads afterwards; one thread is fastest at this size."""
    threads, numpy_state = torch.get_num_threads(), np.random.get_state()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpy_state)


def _check_case(case: Case, rules: Sequence[Rule]) -> Iterator[Finding]:
    reason = _run_check(_unsupported_finding, case)
    if reason is not None:
        yield Finding(backbone=case.backbone, rule=SUPPORTS, ok=reason.startswith(SKIPPED), sentence=reason)
        return
    for rule in rules:
        sentence = _run_check(rule.check, case)
        yield Finding(
            backbone=case.backbone,
            rule=rule.name,
            ok=sentence is None,
            sentence=sentence or "",
            statement=rule.statement,
        )
        if sentence is not None and rule.is_required:
            return


def _unsupported_finding(case: Case) -> str | None:
    reason = case.method.supports(case.plan())
    return None if reason is None else f"{SKIPPED}{reason}"


def _run_check(check: Check, case: Case) -> str | None:
    torch.manual_seed(SEED)
    try:
        return check(case)
    except BaseException as error:  # any exception of a plug-in is a finding about it
        if not is_failure(error):
            raise
        return _describe_exception(error, case.file)


def _describe_exception(error: BaseException, file: Path) -> str:
    """Return one line about an exception, with the last line of the plug-in that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == file] or frames
    where = f"{Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name}"
    message = str(error).strip().partition("\n")[0]
    return f"expected no exception, but {where} raised {type(error).__name__}: {message}".removesuffix(": ")
