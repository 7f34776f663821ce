"""Listings of methods, backbones, studies and other plug-ins."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ctrbench.cli import console
from ctrbench.cli.formats import DASH, listing

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ctrbench.discovery import Plugin
    from ctrbench.plugins.ranges import SearchRange
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
    table = _expanded_listing("backbones", "name", "summary", "paper", "year")
    for plugin in plugins:
        table.add_row(plugin.name, _summary(plugin), _authors_and_venue(plugin), _year(plugin))
    console.print_table(table)
    _show_groups("backbones", groups, all_name)


def show_summaries(kind: str, plugins: Iterable[Plugin]) -> None:
    """List plug-ins of a kind by name and summary, and mark those of other packages."""
    table = listing(kind, "name", "summary", "source")
    for plugin in plugins:
        source = "built-in" if plugin.is_builtin else "installed"
        table.add_row(plugin.name, _without_citation(plugin.summary), source)
    console.print_table(table)


def show_settings(
    method: str,
    fields: Mapping[str, FieldInfo],
    space: Mapping[str, SearchRange],
    *,
    inherited: Collection[str],
) -> None:
    """List the settings of a method with defaults and tuning ranges: its own, then those of every method."""
    own = [name for name in fields if name not in inherited]
    rest = [name for name in fields if name in inherited]
    for title, names in ((f"settings of {method}", own), ("settings of every method", rest)):
        table = listing(title, "name", "default", "tuning range")
        for name in names:
            values = space.get(name)
            tuning = DASH if values is None else values.describe()
            table.add_row(name, _value_text(fields[name].default), tuning)
        if names:
            console.print_table(table)


def _value_text(value: object) -> str:
    """Return a value as a selector holds it."""
    if isinstance(value, tuple):
        return "-".join(map(_value_text, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _show_groups(kind: str, groups: Mapping[str, Sequence[str]], all_name: str) -> None:
    for name, selectors in groups.items():
        members = f"all {kind} above" if name == all_name else ", ".join(selectors)
        console.out.print(f"{name}: {members}", highlight=False, markup=False)


def _wide_methods_table(plugins: Iterable[Plugin]) -> Table:
    table = _expanded_listing("methods", "name", "summary", "paper", "year", USES.lower(), PER_DOMAIN.lower())
    for plugin in plugins:
        tags = (plugin.tag(name) for name in (USES, PER_DOMAIN))
        table.add_row(plugin.name, _summary(plugin, 90), _authors_and_venue(plugin), _year(plugin), *tags)
    return table


def _narrow_methods_table(plugins: Iterable[Plugin]) -> Table:
    table = listing("methods", "name", f"summary, paper, {USES.lower()}, {PER_DOMAIN.lower()}")
    for plugin in plugins:
        lines = (
            Text(_summary(plugin, max(console.out.width - 22, 20))),
            Text(f"{_authors_and_venue(plugin)} · {_year(plugin)}" if _year(plugin) else "", style="dim"),
            Text(f"uses: {plugin.tag(USES)}"),
            Text(f"per domain: {plugin.tag(PER_DOMAIN)}"),
        )
        table.add_row(plugin.name, Text("\n").join(filter(None, lines)))
    return table


def _expanded_listing(title: str, *headings: str) -> Table:
    table = listing(title, *headings)
    table.expand = True
    for column in table.columns:
        column.ratio = _WEIGHTS.get(str(column.header))
    return table


def _summary(plugin: Plugin, width: int | None = None) -> str:
    """Return a plug-in's summary without its name, shortened to `width` characters."""
    summary = _without_citation(plugin.summary)
    text = summary.partition(": ")[2] or summary
    return text if width is None else shorten(text, width, placeholder=" …")


def _without_citation(summary: str) -> str:
    """Remove a citation of the specification, `(spec: star-2.2)`, and the full stop."""
    return re.sub(r" \(spec: [^)]*\)", "", summary).rstrip(".")


def _authors_and_venue(plugin: Plugin) -> str:
    """Return a paper's authors and venue, without its title."""
    authors, *rest = plugin.tag("Paper").split(", ")
    return "" if authors.startswith("none") else ", ".join((authors, *rest[-1:]))


def _year(plugin: Plugin) -> str:
    year = plugin.tag("Year")
    return "" if year == "none" else year


def show_studies(studies: Mapping[str, Study]) -> None:
    """List studies (by name) with title and source."""
    table = Table(title="studies", title_justify="left")
    for heading in ("name", "title", "source"):
        table.add_column(heading)
    for name, study in studies.items():
        table.add_row(name, study.title, study.source)
    console.print_table(table)
