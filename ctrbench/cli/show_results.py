"""Tables of reports and studies on a terminal, and the files that hold them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from ctrbench.cli import console
from ctrbench.plain_text import one_line


def show_files(tables: Iterable[Table], files: Iterable[Path]) -> None:
    """Print tables, then the path of each file that was written."""
    for table in tables:
        console.print_table(table)
    for file in files:
        console.print_line(one_line(file))
