"""TOML and JSON files that users write, copy or move: read within limits, with one error for everything else.

Only regular files are read, so a named pipe or a device does not make a command wait. Size, nesting and numbers are
limited, since the parsers take unlimited time or raise errors of their own beyond them.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctrbench.errors import CtrbenchError
from ctrbench.storage.files import Location, read_text

MAX_TOML_BYTES = 1 << 20
MAX_NESTING = 32
"""Largest depth of tables and arrays within each other."""
MAX_INTEGER = (1 << 63) - 1
"""Largest integer of TOML."""
_KEY = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
LONG_KEY = re.compile(rf"(?<![\w-]){_KEY}(?:[ \t]*\.[ \t]*{_KEY}){{{MAX_NESTING},}}")
"""A dotted key beyond the depth limit: the parser's time and memory grow with the square of its parts."""


def read_toml(file: Path, noun: str, error_class: type[CtrbenchError]) -> dict[str, Any]:
    """Return the content of a TOML file; `noun` says in errors what the file is, such as "card".

    Raises `FileNotFoundError` if it does not exist, and an `error_class` for anything but a regular file of valid TOML
    within the limits.
    """
    rule = f"a {noun} must be a valid TOML file"
    try:
        content = tomllib.loads(_read_limited(file))
        _check_limits(content)
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = "correct the path, or the permissions of the file"
        raise error_class(rule, value=f"{file}: {error.strerror}", remedy=remedy) from None
    except RecursionError:
        raise error_class(rule, value=f"{file}: {_TOO_DEEP}", remedy="correct the file") from None
    except ValueError as error:
        raise error_class(rule, value=f"{file}: {_describe(error)}", remedy="correct the file") from None
    return content


def read_json(file: Location) -> Any:  # noqa: ANN401  # JSON holds values of any type
    """Return the content of a JSON file; raises `OSError` if it cannot be read, `ValueError` if it is not JSON."""
    try:
        return json.loads(read_text(file))
    except RecursionError:
        raise ValueError("objects and arrays are nested too deeply") from None


_TOO_DEEP = f"tables and arrays are nested more than {MAX_NESTING} levels deep"


def _read_limited(file: Path) -> str:
    text = read_text(file).removeprefix("\ufeff")
    if len(text.encode()) > MAX_TOML_BYTES:
        raise ValueError(f"it is larger than {MAX_TOML_BYTES:,} bytes")
    if LONG_KEY.search(text):
        raise ValueError(_TOO_DEEP)
    return text


def _describe(error: ValueError) -> str:
    """Return the problem of a file that cannot be parsed, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8 text"
    if "integer string conversion" in str(error):
        return "an integer has too many digits"
    return str(error).replace("\n", " ")


def _check_limits(content: dict[str, Any]) -> None:
    """Raise `ValueError` for values that are nested too deeply and for integers that TOML does not have."""
    level: list[Any] = [content]
    for _ in range(MAX_NESTING):
        level = [child for value in level for child in _children(value)]
        for value in level:
            if isinstance(value, int) and not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
                raise ValueError(f"an integer has {value.bit_length()} bits, at most 63 are allowed")
    if level:
        raise ValueError(_TOO_DEEP)


def _children(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
