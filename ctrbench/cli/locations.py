"""Values of options that are files, folders or URLs, checked as typed before a command begins.

A `Path` has lost what was typed: an empty text is the current folder, and a URL has one slash less. The parsers raise
`typer.BadParameter`, since typer replaces the message of every `ValueError`; the cause of it holds rule and remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import typer

from ctrbench.errors import CtrbenchError, SettingError, shorten

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://?")
"""Beginning of a URL, also of one that a shell variable or a path library has joined with one slash."""


def location(text: str) -> str:
    """Return the path or URL of an option; raises `BadParameter` if it is empty."""
    if not text.strip():
        raise _refusal("must not be empty", text, "name a file or folder; . is the current folder")
    return text


def local_path(text: str | Path) -> Path:
    """Return the path of an option; raises `BadParameter` if it is empty or a URL."""
    if isinstance(text, Path):
        # The default.
        return text
    location(text)
    if URL.match(text):
        remedy = "name a path, and copy the files from or to the URL"
        raise _refusal("must be a path of this machine, not a URL", text, remedy)
    return Path(text)


def existing_path(text: str | Path) -> Path:
    """Return the path of an argument; raises `BadParameter` if it is empty, a URL or does not exist."""
    path, reason = local_path(text), None
    try:
        path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason is not None:
        raise _refusal("must exist", f"{shorten(str(text))} ({reason})", "correct the path")
    return path


def _refusal(rule: str, value: str, remedy: str) -> typer.BadParameter:
    shown = shorten(value, 120) if value.strip() else repr(value)
    refusal = typer.BadParameter(f"{rule}: {shown}")
    refusal.__cause__ = SettingError(rule, value=shown, remedy=remedy)
    return refusal


def refused_value(error: BaseException) -> CtrbenchError | None:
    """Return the error of a parser of this module, with the name of its option; None for any other exception."""
    cause, parameter = error.__cause__, getattr(error, "param", None)
    if not isinstance(cause, SettingError) or parameter is None:
        return None
    name = parameter.opts[-1] if parameter.opts[-1].startswith("-") else parameter.metavar
    return SettingError(f"{name} {cause.rule}", value=cause.value, remedy=cause.remedy)


def check_arguments(arguments: Iterable[str]) -> None:
    """Raise `SettingError` for an argument that is not UTF-8, such as the name of a file from another system."""
    from ctrbench.problems import check_utf8

    for argument in arguments:
        check_utf8(argument, "an argument")
