"""The two streams of the command line: results on standard output, progress and notes on standard error.

Modules use `console.out` and `console.err` instead of importing the objects, so that a test can replace them.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ctrbench.errors import CtrbenchError

out = Console()
err = Console(stderr=True)


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table below its title, which may be wider than the columns."""
    console, title, table.title = console or out, table.title, None
    if title:
        console.print(title, style="italic", highlight=False)
    console.print(table)


def print_error(error: CtrbenchError) -> None:
    """Print rule and value of an error to standard error, and the remedy below them."""
    problem = error.rule if error.value is None else f"{error.rule}: {error.value}"
    err.print(f"error: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)
    if error.remedy:
        err.print(f"hint: {error.remedy}", highlight=False, markup=False, soft_wrap=True)


def print_line(line: str) -> None:
    """Print a line of plain text to standard output, without markup, highlighting or wrapping."""
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def print_note(line: str) -> None:
    """Print a line of plain text to standard error, without markup, highlighting or wrapping."""
    err.print(line, highlight=False, markup=False, soft_wrap=True)
