"""The one family of errors that a user can cause.

Each says the rule that was broken, the value that broke it and what to do about it. The command line prints the
three parts and leaves with exit code 2; anything that is not a `CtrbenchError` is a defect of ours and keeps its
traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CtrbenchError(ValueError):
    """A rule, the value that broke it, and the remedy."""

    def __init__(self, rule: str, *, value: object = None, remedy: str | None = None) -> None:
        self.rule, self.value, self.remedy = rule, value, remedy
        parts = [rule if value is None else f"{rule}: {value}", remedy]
        super().__init__(". ".join(part.rstrip(".") for part in parts if part))


class CardError(CtrbenchError):
    """A dataset card that cannot be read or that contradicts itself or its data."""


class DataError(CtrbenchError):
    """Raw or prepared data that break a rule of their format."""


class SourceError(CtrbenchError):
    """A source that cannot be had: not there, not an archive, a wrong checksum."""


class SettingError(CtrbenchError):
    """An unknown or impossible choice on the command line or in a selector."""


class StoreError(CtrbenchError):
    """Run records that cannot be read, or must not be overwritten."""


class ContractError(CtrbenchError):
    """A plug-in that breaks the contract every method must keep."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a remedy that names the nearest known name, and all of them when they are few."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(names)}" if len(names) <= 40 else hint.strip() or "see the list command"
