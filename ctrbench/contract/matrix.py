"""The contract for several methods: each on several backbones, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ctrbench.contract.check import Finding, check, construction_fault
from ctrbench.plugins.registry import select

Progress = Callable[[str, int, int], None]
"""Progress callback: receives the next method, its number from 1, and the number of methods."""


def check_methods(
    methods: Sequence[str],
    *,
    backbones: Sequence[str] | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, tuple[Finding, ...]]:
    """Return the findings about each method, by selector or file, on the given or all built-in backbones.

    Raises `SettingError` before the first check.
    """
    for method in methods:
        construction_fault(select("methods", method))
    findings = {}
    for number, method in enumerate(methods, start=1):
        progress(method, number, len(methods))
        findings[method] = check(method, backbones=backbones)
    return findings


def all_pass(findings: Mapping[str, Sequence[Finding]]) -> bool:
    """Return whether no rule fails."""
    return all(finding.ok for of_method in findings.values() for finding in of_method)
