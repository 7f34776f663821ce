"""Entry point of the command line: the application, its commands by help panel, and the exit codes.

Each command is one function of `cli.data`, `cli.runs`, …, which parses its options, calls another package and shows the
result. Heavy packages are imported inside these functions, so that help and completion respond at once. A
`CtrbenchError` becomes one message and exit code 2; failed runs and broken contracts end with 1, Ctrl-C with 130.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import ctrbench
from ctrbench.cli import console, data, plugins, results, runs, speed
from ctrbench.errors import DEBUG, CtrbenchError, plugin_error

SETTINGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="ctrbench",
    help="The benchmark for multi-domain click-through-rate models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=SETTINGS,
)
synth_app = typer.Typer(
    help="Generate raw data with a known click probability.", no_args_is_help=True, context_settings=SETTINGS
)

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Data": {"prepare": data.prepare, "show": data.show, "card": data.card},
    "Experiments": {"run": runs.run, "report": results.report, "study": runs.study},
    "Plug-ins": {
        "list": plugins.list_,
        "explain": plugins.explain,
        "new-method": plugins.new_method,
        "check": plugins.check,
    },
    "Development": {"bench": speed.bench},
}
"""Help panel → command → function."""

for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
synth_app.command("iaac")(data.synth_iaac)
app.add_typer(synth_app, name="synth", rich_help_panel="Data")


def _show_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"ctrbench {ctrbench.__version__}")
        raise typer.Exit


@app.callback()
def _set_root_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """The benchmark for multi-domain click-through-rate models."""


BLOCKED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOSPC, errno.EDQUOT}
"""Errors of the operating system that a user can mend."""


def main() -> None:
    """Run the command line; errors of the user and exceptions inside plug-ins end with exit code 2."""
    try:
        app(prog_name="ctrbench")
    except Exception as error:
        shown = _to_user_error(error)
        if shown is None or os.environ.get(DEBUG):
            raise
        console.print_error(shown)
        sys.exit(2)


def _to_user_error(error: Exception) -> CtrbenchError | None:
    """Return the error to show; None for a bug of ctrbench."""
    if isinstance(error, CtrbenchError):
        return error
    if isinstance(error, OSError) and error.errno in BLOCKED:
        remedy = "choose another location, or change its permissions"
        return CtrbenchError(str(error.strerror), value=error.filename, remedy=remedy)
    return plugin_error(error)
