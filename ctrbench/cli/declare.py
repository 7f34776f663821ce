"""Builders of options that have the same form in several commands: counts, choices, lists, seeds and Ray clusters."""

from __future__ import annotations

import typer

from ctrbench.cli import completion

MAX_COUNT = 1_000_000_000
MAX_PROCESSES = 1_024
"""Largest number of processes, threads or runs in parallel."""


def count(
    *names: str,
    help: str,
    max: int = MAX_COUNT,
    show_default: bool | str = True,
    rich_help_panel: str | None = None,
) -> object:
    """Declare a whole number from 1 to `max`."""
    return typer.Option(
        *names,
        metavar="N",
        min=1,
        max=max,
        help=help,
        show_default=show_default,
        rich_help_panel=rich_help_panel,
    )


def choice(
    *values: str, help: str, show_default: bool | str = True, rich_help_panel: str | None = None
) -> object:
    """Declare one of several values, which the help lists and the shell completes."""
    return typer.Option(
        metavar="|".join(values),
        help=help,
        show_default=show_default,
        rich_help_panel=rich_help_panel,
        autocompletion=completion.choices(*values),
    )


def dataset(*names: str, show_default: str) -> object:
    """Declare the name of a prepared dataset."""
    return typer.Option(
        *names,
        metavar="NAME",
        help="Prepared dataset.",
        show_default=show_default,
        autocompletion=completion.prepared,
    )


def methods() -> object:
    """Declare a list of methods."""
    return typer.Option(metavar="LIST", help=_list_help("Methods"), autocompletion=completion.methods)


def backbones(*names: str, show_default: bool | str = True) -> object:
    """Declare a list of backbones."""
    return typer.Option(
        *names,
        metavar="LIST",
        help=_list_help("Backbones"),
        show_default=show_default,
        autocompletion=completion.backbones,
    )


def _list_help(plural: str) -> str:
    return f"{plural}, separated by commas: name, name\\[setting=value], path/to/file.py, or all."


def seeds(*names: str, show_default: bool | str = True) -> object:
    """Declare the seeds of runs."""
    text = "Seeds: a count (5), a list (1,2,7) or a range (3-8)."
    return typer.Option(*names, metavar="SEEDS", help=text, show_default=show_default)


def engine(verb: str, rich_help_panel: str) -> object:
    """Declare where to execute the work that the verb names: on this machine, or on a Ray cluster."""
    return typer.Option(
        "--engine",
        metavar="local|ray",
        help=f"Where to {verb}: in processes on this machine, or on a Ray cluster.",
        rich_help_panel=rich_help_panel,
        autocompletion=completion.choices("local", "ray"),
    )


def address(rich_help_panel: str) -> object:
    """Declare the address of a Ray cluster."""
    return typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Address of the Ray cluster, with --engine ray.",
        show_default="auto",
        rich_help_panel=rich_help_panel,
    )
