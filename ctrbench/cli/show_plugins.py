"""Listings of methods, backbones and studies, and the findings of the contract."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ctrbench.cli import console
from ctrbench.cli.formats import DASH, listing

if TYPE_CHECKING:
    from ctrbench.contract.check import Finding
    from ctrbench.discovery import Plugin
    from ctrbench.studies.study import Study

USES, PER_DOMAIN = "Uses", "Parameters per domain"
"""Lines of a method's docstring."""

WIDE_COLUMNS = 110
"""Terminal width from which methods are listed in six columns; below, the last five share one column."""

_WEIGHTS = {"summary": 8, "paper": 5, USES.lower(): 6, PER_DOMAIN.lower(): 7}
"""Shares of the remaining width."""


def show_methods(plugins: Iterable[Plugin], groups: Mapping[str, Sequence[str]], *, all_name: str) -> None:
    """List methods, and below the groups of them."""
    is_wide = console.out.width >= WIDE_COLUMNS
    console.print_table(_wide_methods_table(plugins) if is_wide else _narrow_methods_table(plugins))
    _show_groups("methods", groups, all_name)


def show_backbones(plugins: Iterable[Plugin], groups: Mapping[str, Sequence[str]], *, all_name: str) -> None:
    """List backbones, and below the groups of them."""
    table = _expanded("backbones", "name", "summary", "paper", "year")
    for plugin in plugins:
        table.add_row(plugin.name, _summary(plugin), _authors_and_venue(plugin), _year(plugin))
    console.print_table(table)
    _show_groups("backbones", groups, all_name)


def show_summaries(kind: str, plugins: Iterable[Plugin]) -> None:
    """List plug-ins of a kind by name and summary, and mark those of other packages."""
    table = listing(kind, "name", "summary", "source")
    for plugin in plugins:
        source = "built-in" if plugin.is_builtin else "installed"
        table.add_row(plugin.name, escape(_without_citation(plugin.summary)), source)
    console.print_table(table)


def _show_groups(kind: str, groups: Mapping[str, Sequence[str]], all_name: str) -> None:
    for name, selectors in groups.items():
        members = f"all {kind} above" if name == all_name else ", ".join(selectors)
        console.out.print(f"{name}: {members}", highlight=False, markup=False)


def _wide_methods_table(plugins: Iterable[Plugin]) -> Table:
    table = _expanded("methods", "name", "summary", "paper", "year", USES.lower(), PER_DOMAIN.lower())
    for plugin in plugins:
        tags = (escape(plugin.tag(name)) for name in (USES, PER_DOMAIN))
        table.add_row(plugin.name, _summary(plugin, 90), _authors_and_venue(plugin), _year(plugin), *tags)
    return table


def _narrow_methods_table(plugins: Iterable[Plugin]) -> Table:
    table = listing("methods", "name", f"summary, paper, {USES.lower()}, {PER_DOMAIN.lower()}")
    for plugin in plugins:
        lines = (
            _summary(plugin, console.out.width - 22),
            f"[dim]{_authors_and_venue(plugin)} · {_year(plugin)}[/]" if _year(plugin) else "",
            f"uses: {escape(plugin.tag(USES))}",
            f"per domain: {escape(plugin.tag(PER_DOMAIN))}",
        )
        table.add_row(plugin.name, "\n".join(filter(None, lines)))
    return table


def _expanded(title: str, *headings: str) -> Table:
    table = listing(title, *headings)
    table.expand = True
    for column in table.columns:
        column.ratio = _WEIGHTS.get(str(column.header))
    return table


def _summary(plugin: Plugin, width: int | None = None) -> str:
    """Return a plug-in's summary without its name, shortened to `width` characters."""
    summary = _without_citation(plugin.summary)
    text = summary.partition(": ")[2] or summary
    return escape(text if width is None else shorten(text, width, placeholder=" …"))


def _without_citation(summary: str) -> str:
    """Remove a citation of the specification, `(spec: star-2.2)`, and the full stop."""
    return re.sub(r" \(spec: [^)]*\)", "", summary).rstrip(".")


def _authors_and_venue(plugin: Plugin) -> str:
    """Return a paper's authors and venue, without its title."""
    authors, *rest = plugin.tag("Paper").split(", ")
    return "" if authors.startswith("none") else escape(", ".join((authors, *rest[-1:])))


def _year(plugin: Plugin) -> str:
    year = plugin.tag("Year")
    return "" if year == "none" else escape(year)


def show_studies(studies: Mapping[str, Study]) -> None:
    """List studies (by name) with title and source."""
    table = Table(title="studies", title_justify="left")
    for heading in ("name", "title", "source"):
        table.add_column(heading)
    for name, study in studies.items():
        table.add_row(name, escape(study.title), escape(study.source))
    console.print_table(table)


def show_findings(findings: Sequence[Finding]) -> None:
    """Print the findings about one method as rules × backbones, and explain failures and skipped pairs."""
    backbones = list(dict.fromkeys(finding.backbone for finding in findings))
    table = Table(title="contract", title_justify="left")
    for heading in ("rule", *backbones):
        table.add_column(escape(heading))
    by_rule: dict[str, dict[str, Finding]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule, {})[finding.backbone] = finding
    for rule, of_backbones in by_rule.items():
        table.add_row(rule, *(_finding_text(of_backbones.get(backbone)) for backbone in backbones))
    console.print_table(table)
    for finding in findings:
        if finding.is_skipped:
            console.print_line(f"{finding.backbone}: {finding.sentence}")
    for rule, of_backbones in by_rule.items():
        _print_failures(rule, [finding for finding in of_backbones.values() if not finding.ok])
    _print_totals(findings)


def _print_failures(rule: str, failures: Sequence[Finding]) -> None:
    """Print the statement of a rule and how it is broken on each backbone."""
    if failures:
        console.print_line(f"{rule}: {failures[0].statement}")
    for finding in failures:
        console.print_line(f"  {finding.backbone}: {finding.sentence}")


def _finding_text(finding: Finding | None) -> str:
    if finding is None:
        return ""
    if finding.is_skipped:
        return "skipped"
    return "ok" if finding.ok else "FAILED"


def show_matrix(findings: Mapping[str, Sequence[Finding]]) -> None:
    """Print the findings about several methods as methods × backbones, and explain failures."""
    flat = [(method, finding) for method, of_method in findings.items() for finding in of_method]
    backbones = list(dict.fromkeys(finding.backbone for _, finding in flat))
    # Columns are numbered: the names of a dozen backbones do not fit on a terminal.
    for number, backbone in enumerate(backbones, start=1):
        console.print_line(f"{number:3} {backbone}")
    table = listing("contract", "name", *map(str, range(1, len(backbones) + 1)))
    for method, of_method in findings.items():
        table.add_row(escape(method), *(_verdict(of_method, backbone) for backbone in backbones))
    console.print_table(table)
    console.print_line("ok: all rules pass; –: skipped, not supported by the method; 2!: two rules fail")
    for method, finding in flat:
        if not finding.ok:
            console.print_line(f"{method} × {finding.backbone}: {finding.rule}: {finding.sentence}")
    _print_totals([finding for _, finding in flat])


def _verdict(findings: Iterable[Finding], backbone: str) -> str:
    """Return `ok`, a dash for a skipped pair, or the number of rules that fail."""
    of_pair = [finding for finding in findings if finding.backbone == backbone]
    num_failed = sum(not finding.ok for finding in of_pair)
    if num_failed:
        return f"{num_failed}!"
    return DASH if any(finding.is_skipped for finding in of_pair) else "ok" if of_pair else ""


def _print_totals(findings: Sequence[Finding]) -> None:
    num_failed = sum(not finding.ok for finding in findings)
    console.print_line(f"{len(findings) - num_failed} passed, {num_failed} failed")
