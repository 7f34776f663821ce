"""Errors that a user can cause, and the texts that several of them share.

Each error states the rule that was broken, the value that broke it and the remedy. The command line prints the three
parts and exits with code 2. `ctrbench.failures` turns other exceptions into such errors.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

PLUGIN_MODULE = "ctrbench_plugin_"
"""Beginning of the names of modules that are plug-in files from outside ctrbench."""
DEBUG = "CTRBENCH_DEBUG"
"""Environment variable; if it is set, the command line shows the traceback of every error, as with `--debug`."""


class CtrbenchError(ValueError):
    """A broken rule, the value that broke it, and the remedy."""

    def __init__(self, rule: str, *, value: object = None, remedy: str | None = None) -> None:
        self.rule, self.value, self.remedy = rule, value, remedy
        parts = [rule if value is None else f"{rule}: {value}", remedy]
        super().__init__(". ".join(part.rstrip(".") for part in parts if part))


class CardError(CtrbenchError):
    """A dataset card is unreadable or contradicts itself or its data."""


class DataError(CtrbenchError):
    """Raw or prepared data break a rule of their format."""


class SourceError(CtrbenchError):
    """A data source is unavailable: missing, not an archive, or with a wrong checksum."""


class SettingError(CtrbenchError):
    """An unknown or invalid choice on the command line or in a selector."""


class StoreError(CtrbenchError):
    """A store of run records is unreadable, unreachable or must not be overwritten."""


class ContractError(CtrbenchError):
    """A plug-in breaks the contract of its kind."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return a remedy with the nearest valid name, and with all valid names if there are at most 40.

    >>> did_you_mean("gendr", ["age", "gender"])
    "did you mean 'gender'? known: age, gender"
    """
    names = sorted(choices)
    close_names = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close_names[0]!r}? " if close_names else ""
    return f"{hint}known: {', '.join(names)}" if len(names) <= 40 else hint.strip() or "see the list command"


def shorten(text: str, length: int = 60) -> str:
    """Return a value for an error, with only the beginning of a long one.

    >>> shorten("12345678", 6)
    '12345…'
    """
    return text if len(text) <= length else f"{text[: length - 1]}…"


def plugin_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the last frame of an exception in a plug-in from outside ctrbench; None if there is none."""
    steps = traceback.walk_tb(error.__traceback__)
    own = [step for step in steps if step[0].f_globals.get("__name__", "").startswith(PLUGIN_MODULE)]
    return traceback.StackSummary.extract(iter(own))[-1] if own else None


def describe_exception(error: BaseException) -> str:
    """Return type and message of an exception, after file, line and function of the plug-in that raised it.

    >>> describe_exception(KeyError("age"))
    "KeyError: 'age'"
    """
    frame = plugin_frame(error)
    text = f"{type(error).__name__}: {_message_of(error)}".strip().removesuffix(":")
    return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {text}" if frame else text


def _message_of(error: BaseException) -> str:
    """Return the message of an exception, in characters that UTF-8 can encode."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  # the class may be a plug-in's own
        message = "(its message raises an exception)"
    return message.encode("utf-8", "backslashreplace").decode("utf-8")


def plugin_error(error: BaseException) -> ContractError | None:
    """Return the error to show for an exception that a plug-in from outside raised; None for any other exception."""
    if isinstance(error.__cause__, StopIteration):
        # A generator that calls the plug-in raises a RuntimeError instead.
        error = error.__cause__
    frame = plugin_frame(error)
    if frame is None:
        return None
    return ContractError(
        "a plug-in must not raise an exception",
        value=f"{describe_exception(error)} ({frame.filename})",
        remedy="correct this line; --debug shows the traceback",
    )
