"""Findings of the contract: a table of rules or of methods, and below it each failure once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from ctrbench.cli import console
from ctrbench.cli.formats import DASH, listing

if TYPE_CHECKING:
    from ctrbench.contract.check import Finding

_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def show_findings(findings: Sequence[Finding]) -> None:
    """Print the findings about one method by rule, and explain failures and skipped backbones."""
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        if not finding.is_skipped:
            by_rule.setdefault(finding.rule, []).append(finding)
    table = listing("contract", "rule", "passed", "failed", "fails on")
    for rule, of_rule in by_rule.items():
        failed = [finding for finding in of_rule if not finding.ok]
        num_passed = len(of_rule) - len(failed)
        table.add_row(rule, str(num_passed), str(len(failed) or ""), _backbones_text(failed, of_rule))
    if by_rule:
        console.print_table(table)
    for reason, skipped in _by_sentence(finding for finding in findings if finding.is_skipped).items():
        _print_wrapped(f"{_backbones_text(skipped)}: {reason}")
    for rule, of_rule in by_rule.items():
        _print_failures(rule, of_rule)
    _print_totals(findings)


def show_matrix(findings: Mapping[str, Sequence[Finding]]) -> None:
    """Print the findings about several methods as methods × backbones, and explain failures."""
    flat = [finding for of_method in findings.values() for finding in of_method]
    backbones = list(dict.fromkeys(finding.backbone for finding in flat))
    # Columns are numbered: the names of a dozen backbones do not fit on a terminal.
    for number, backbone in enumerate(backbones, start=1):
        console.print_line(f"{number:3} {backbone}")
    table = listing("contract", "name", *map(str, range(1, len(backbones) + 1)))
    table.columns[0].overflow = "fold"
    for method, of_method in findings.items():
        table.add_row(method, *(_verdict(of_method, backbone) for backbone in backbones))
    console.print_table(table)
    console.print_line("ok: all rules pass; –: skipped, not supported by the method; 2!: two rules fail")
    for method, of_method in findings.items():
        for rule in dict.fromkeys(finding.rule for finding in of_method if not finding.ok):
            _print_failures(f"{method}: {rule}", [finding for finding in of_method if finding.rule == rule])
    _print_totals(flat)


def _print_failures(title: str, findings: Sequence[Finding]) -> None:
    """Print the statement of a rule and, once per distinct failure, the backbones that show it."""
    failed = [finding for finding in findings if not finding.ok]
    if failed:
        _print_wrapped(f"{title}: {failed[0].statement}")
    for sentence, alike in _by_sentence(failed).items():
        differ = len({finding.sentence for finding in alike}) > 1
        numbers = f" (numbers of {alike[0].backbone})" if differ else ""
        _print_wrapped(f"on {_backbones_text(alike, findings)}{numbers}: {sentence}", indent=2)


def _by_sentence(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Group findings whose sentences differ in numbers only, by the sentence of the first one."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(_NUMBER.sub("#", finding.sentence), []).append(finding)
    return {alike[0].sentence: alike for alike in groups.values()}


def _backbones_text(findings: Sequence[Finding], of_all: Sequence[Finding] = ()) -> str:
    """Return the backbones of findings; in short if these are all of several."""
    names = [finding.backbone for finding in findings]
    return f"all {len(names)} backbones" if 1 < len(names) == len(of_all) else ", ".join(names)


def _print_wrapped(text: str, indent: int = 0) -> None:
    lines = fill(
        text,
        console.out.width,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
    console.print_line(lines)


def _verdict(findings: Iterable[Finding], backbone: str) -> str:
    """Return `ok`, a dash for a skipped pair, or the number of rules that fail."""
    of_pair = [finding for finding in findings if finding.backbone == backbone]
    num_failed = sum(not finding.ok for finding in of_pair)
    if num_failed:
        return f"{num_failed}!"
    return DASH if any(finding.is_skipped for finding in of_pair) else "ok" if of_pair else ""


def _print_totals(findings: Sequence[Finding]) -> None:
    num_failed = sum(not finding.ok for finding in findings)
    num_skipped = sum(finding.is_skipped for finding in findings)
    skipped = f", {num_skipped} backbones skipped" if num_skipped else ""
    console.print_line(f"{len(findings) - num_failed - num_skipped} passed, {num_failed} failed{skipped}")
