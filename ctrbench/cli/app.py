"""Entry point of the command line: the application, its commands by help panel, and the exit codes.

Each command is one function of `cli.data`, `cli.runs`, …, which parses its options, calls another package and shows the
result. Heavy packages are imported inside these functions, so that help and completion respond at once. A
command that cannot do its work ends with one message and exit code 2, a bug of ctrbench with 1, as do failed runs and
broken contracts; Ctrl-C ends with 130, SIGTERM with 143, a closed pipe with 141.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

import ctrbench
from ctrbench.address_space import LIBRARIES, check_address_space
from ctrbench.cli import console, data, plugins, results, runs, speed, tuning
from ctrbench.cli.locations import check_arguments, refused_value
from ctrbench.errors import DEBUG, CtrbenchError
from ctrbench.failures import bug_error, is_failure, raised_signals, stop_code, stop_message, user_error

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
    "Experiments": {"run": runs.run, "tune": tuning.tune, "report": results.report, "study": runs.study},
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
        console.print_line(f"ctrbench {ctrbench.__version__}")
        raise typer.Exit


@app.callback()
def _set_root_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help=f"Show the traceback of an error; also after the command, or as {DEBUG}=1."
        ),
    ] = False,
) -> None:
    """The benchmark for multi-domain click-through-rate models."""


COMPLETION = "_CTRBENCH_COMPLETE"
"""Environment variable with which a shell asks for completion."""
LIGHT = {"-h", "--help", "--version"}
"""Options with which a command imports no heavy package."""
USAGE_EXIT, BUG_EXIT, CLOSED_PIPE_EXIT = 2, 1, 141


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    console.replace_unencodable()
    with raised_signals():
        try:
            _invoke(sys.argv[1:])
            console.flush()
            code = 0
        except BaseException as error:  # noqa: BLE001  # the one place where every exception ends
            code = _exit_code(error)
    sys.exit(code)


def _invoke(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    if COMPLETION in os.environ:
        command(prog_name="ctrbench")
    if "--debug" in arguments:
        # A variable reaches the processes of runs too.
        os.environ[DEBUG] = "1"
    check_arguments(arguments)
    if not LIGHT & set(arguments):
        check_address_space(LIBRARIES, "ctrbench")
    # Not through `command()`, which ends the process for some exceptions itself.
    with command.make_context("ctrbench", [part for part in arguments if part != "--debug"]) as context:
        command.invoke(context)


def _exit_code(error: BaseException) -> int:
    """Show an exception that ended a command, and return the exit code."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, OSError):
        # The interpreter would complain about standard output once more when it ends.
        console.drop_pending_output()
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE_EXIT
    if not is_failure(error):
        if stop_message(error):
            console.print_note(stop_message(error))
        return stop_code(error)
    if os.environ.get(DEBUG):
        console.print_note("".join(traceback.format_exception(error)).rstrip())
    shown = _usage_error(error) or user_error(error)
    if shown is None or shown.rule:
        # The error of a command without arguments is empty: it has printed its help.
        console.print_error(shown or bug_error(error))
    return BUG_EXIT if shown is None else USAGE_EXIT


def _usage_error(error: BaseException) -> CtrbenchError | None:
    """Return the error to show for a wrong option or argument; None for any other exception."""
    refused = refused_value(error)
    if refused is not None:
        return refused
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "ctrbench"
    return CtrbenchError(format_message(), remedy=f"{command} --help lists arguments and options")
