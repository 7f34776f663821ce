"""The contract for several methods: each on all built-in backbones, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ctrbench.contract.check import Finding, check
from ctrbench.plugins.registry import select

Started = Callable[[str, int, int], None]
"""Callback that receives the method whose check begins, its number and the number of methods."""


def check_methods(
    methods: Sequence[str], *, started: Started = lambda _method, _number, _total: None
) -> dict[str, tuple[Finding, ...]]:
    """Return the findings about each method, by selector or file; raises `SettingError` before the first check."""
    for method in methods:
        _ = select("methods", method).value
    findings = {}
    for number, method in enumerate(methods, start=1):
        started(method, number, len(methods))
        findings[method] = check(method)
    return findings


def all_pass(findings: Mapping[str, Sequence[Finding]]) -> bool:
    """Return whether no rule fails."""
    return all(finding.ok for of_method in findings.values() for finding in of_method)
