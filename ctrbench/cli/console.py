"""The two streams of the command line: results on standard output, progress and notes on standard error.

Modules use `console.out` and `console.err` instead of importing the objects, so that a test can replace them. Text is
shown as it is: brackets are not markup, and control characters of values appear as escapes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctrbench.errors import CtrbenchError
from ctrbench.plain_text import one_line, printable


@contextmanager
def _named_stream() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


class PlainConsole(Console):
    """A console that reads neither markup nor emoji codes in text and shows control characters as escapes."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  # those of rich
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401
        """Print as rich does; an error of writing names the stream."""
        with _named_stream():
            super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401
        """Return text as rich shows it, also for the cells of tables."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Raise the error, which rich would turn into `sys.exit`."""
        raise BrokenPipeError


out = PlainConsole()
err = PlainConsole(stderr=True)


def replace_unencodable() -> None:
    """Show `?` for characters that the encoding of standard output lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def flush() -> None:
    """Write what standard output still holds; raises an error where that fails."""
    if sys.stdout is not None:
        with _named_stream():
            sys.stdout.flush()


def drop_pending_output() -> None:
    """Discard what standard output still holds if it cannot be written."""
    try:
        flush()
    except OSError:
        with suppress(OSError):
            sys.stdout.close()


def print_table(table: Table, to: Console | None = None) -> None:
    """Print a table below its title, which may be wider than the columns."""
    console, title, table.title = to or out, table.title, None
    # A progress table that cannot be shown must not end the command.
    with suppress(OSError) if console is err else nullcontext():
        if title:
            console.print(title, style="italic")
        console.print(table)


def print_error(error: CtrbenchError) -> None:
    """Print rule and value of an error to standard error, and the remedy below them."""
    problem = error.rule if error.value is None else f"{error.rule}: {error.value}"
    with suppress(OSError):
        err.print(f"error: {one_line(problem)}", style="red", soft_wrap=True)
        if error.remedy:
            err.print(f"hint: {one_line(error.remedy)}", soft_wrap=True)


def print_line(line: str) -> None:
    """Print a line of plain text to standard output, without wrapping."""
    out.print(line, soft_wrap=True)


def print_note(line: str) -> None:
    """Print a line of plain text to standard error, without wrapping; a stream that is gone is ignored."""
    with suppress(OSError):
        err.print(line, soft_wrap=True)
