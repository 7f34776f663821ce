"""Problems of a file or of settings that pydantic checks, as errors with rule, value and remedy.

A file is reported with all of its problems at once: misspelled keys first, then missing ones, then wrong values.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from ctrbench.errors import CtrbenchError, SettingError, shorten

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


MAX_SHOWN = 100
"""Number of characters of a wrong value or key that an error shows."""
MAX_LISTED = 20
"""Number of problems that one error lists."""


class Problems(ValueError):
    """Several broken rules of one value; for validators, which may raise only once."""

    def __init__(self, errors: Sequence[CtrbenchError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(map(str, errors)))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem that pydantic found in a value."""

    location: tuple[int | str, ...]
    """Keys and indices that lead to the value; empty for a rule about the whole value."""
    value: object
    message: str
    is_unknown_key: bool
    """Whether the problem is a key that the model does not have."""
    is_missing_key: bool = False
    """Whether the problem is a required key that is not given."""
    error: CtrbenchError | None = None
    """The error that a validator raised, if it was one of ctrbench."""

    @property
    def path(self) -> str:
        """The location as text, such as `fields.0.name`."""
        return shorten(".".join(str(part) for part in self.location), MAX_SHOWN)

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.location else self.message


def control_character(text: str, *, allowed: str = "") -> str | None:
    """Return the first control character of a text, as it is written in TOML, or None.

    >>> control_character("a\\x1bb")
    '\\\\u001b'
    """
    controls = (letter for letter in text if unicodedata.category(letter) == "Cc" and letter not in allowed)
    first = next(controls, None)
    return None if first is None else f"\\u{ord(first):04x}"


def check_utf8(text: str, name: str) -> None:
    """Raise `SettingError` for text that UTF-8 cannot encode; `name` says in the error what the text is.

    Python reads each undecodable byte of arguments, of variables and of file names as a lone surrogate, which no
    document holds and no library takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
        remedy = "rename the file or folder in UTF-8; set LC_ALL=C.UTF-8 if its name is UTF-8 already"
        raise SettingError(f"{name} must be UTF-8 text", value=shown, remedy=remedy) from None


def raise_all(errors: Iterable[CtrbenchError]) -> None:
    """Raise `Problems` with the distinct errors, if there are any."""
    distinct = {str(error): error for error in errors}
    if distinct:
        raise Problems(list(distinct.values()))


def errors_of(checks: Iterable[Callable[[], None]]) -> Iterator[CtrbenchError]:
    """Call each check and yield the errors that they raise."""
    for check in checks:
        try:
            check()
        except CtrbenchError as error:
            yield error


def all_problems(error: ValidationError) -> list[Problem]:
    """Return the problems of a validation error: unknown keys first, then missing ones, then the others."""
    problems = [problem for details in error.errors() for problem in _split(details)]
    return sorted(problems, key=lambda problem: (not problem.is_unknown_key, not problem.is_missing_key))


def first_problem(error: ValidationError) -> Problem:
    """Return the first problem of a validation error; see `all_problems`."""
    return all_problems(error)[0]


def shown_problems(error: ValidationError) -> list[Problem]:
    """Return all problems but those that others explain: a missing key of which a misspelled one is given."""
    problems = all_problems(error)
    unknown = [problem.location for problem in problems if problem.is_unknown_key]
    return [
        problem
        for problem in problems
        if not (problem.is_missing_key and any(_resemble(problem.location, other) for other in unknown))
    ]


def _resemble(missing: tuple[int | str, ...], unknown: tuple[int | str, ...]) -> bool:
    is_same_table = missing[:-1] == unknown[:-1]
    return is_same_table and bool(get_close_matches(str(unknown[-1]), [str(missing[-1])], cutoff=0.5))


def _split(details: ErrorDetails) -> Iterator[Problem]:
    raised = details.get("ctx", {}).get("error")
    for error in raised.errors if isinstance(raised, Problems) else (raised,):
        message = details["msg"] if error is None else str(error)
        yield Problem(
            location=details["loc"],
            value=details["input"],
            message=_as_rule(message.removeprefix("Value error, ")),
            is_unknown_key=details["type"] == "extra_forbidden",
            is_missing_key=details["type"] == "missing",
            error=error if isinstance(error, CtrbenchError) else None,
        )


def _as_rule(message: str) -> str:
    """Return a message of pydantic as a rule: `Input should be a valid integer` as `must be a valid integer`."""
    if "exceeded maximum size" in message:
        return "must be a number of fewer digits"
    return re.sub(r"^[A-Z]\w+ should ", "must ", message).partition(", unable to")[0]


def describe_problem(problem: Problem, keys: Sequence[str]) -> CtrbenchError:
    """Return a problem of a file as an error; `keys` are the valid keys beside an unknown one."""
    if problem.is_unknown_key:
        near = get_close_matches(str(problem.location[-1]), keys, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(keys)}"
        return SettingError("unknown key", value=problem.path, remedy=remedy)
    if problem.is_missing_key:
        return SettingError("missing key", value=problem.path)
    if problem.error is not None:
        separator = " " if problem.error.rule.startswith("must ") else ": "
        rule = f"{problem.path}{separator}{problem.error.rule}" if problem.location else problem.error.rule
        return SettingError(rule, value=problem.error.value, remedy=problem.error.remedy)
    rule = f"{problem.path} {problem.message}" if problem.message.startswith("must ") else str(problem)
    if not isinstance(problem.value, str | int | float):
        return SettingError(rule)
    return SettingError(rule, value=shorten(repr(problem.value), MAX_SHOWN))


def combine(rule: str, file: object, errors: Sequence[CtrbenchError], *, remedy: str) -> CtrbenchError:
    """Return one error about a file: the only one of `errors` with its own remedy, or a list of all of them."""
    if len(errors) == 1:
        only = errors[0]
        value = file if only.value is None else f"{only.value} in {file}"
        return CtrbenchError(only.rule, value=value, remedy=only.remedy or remedy)
    lines = "".join(f"\n  - {error}" for error in errors[:MAX_LISTED])
    lines += f"\n  - and {len(errors) - MAX_LISTED} more" if len(errors) > MAX_LISTED else ""
    return CtrbenchError(rule, value=f"{file} has {len(errors)} problems{lines}", remedy=remedy)
