"""Tables and numbers as the command line prints them."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table

DASH = "–"


def listing(title: str, *headings: str) -> Table:
    """Return an empty table with a rule below its headings; the columns `name` and `year` never wrap."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("name", "year"))
    return table


def grid(title: str, *headings: str, left: tuple[str, ...] = ()) -> Table:
    """Return an empty table with borders; columns are right-aligned unless `left` names them."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right")
    return table


def metric(value: float | None, digits: int) -> str:
    """Format a metric; an undefined one is a word, never zero."""
    return "undefined" if value is None else f"{value:.{digits}f}"


def percentage(part: int, total: int) -> str:
    """Format a share in percent; a dash if the total is zero."""
    return f"{part / total:.2%}" if total else DASH


def three_digits(value: float) -> str:
    """Format a number with three significant digits, or more if more precede the decimal point."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{min(4, max(0, digits))}f}"


def short_count(number: int) -> str:
    """Format a count with three significant digits and a unit: 3.21M, 57.6k, 340."""
    for unit, sign in ((1_000_000, "M"), (1_000, "k")):
        if number >= unit:
            return f"{three_digits(number / unit)}{sign}"
    return str(number)
