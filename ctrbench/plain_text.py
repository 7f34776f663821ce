"""Text from outside, such as data values, paths and names, made harmless before it is shown or drawn.

Control characters could change a terminal's state, characters that reverse the order of text could disguise it, and
XML forbids most of them. They are shown as escapes (`\\x1b`), so that a reader sees that they are there.
"""

from __future__ import annotations

import re

_HIDDEN = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff"
"""Control characters of Latin-1, separators, direction marks, non-characters and lone surrogates."""
_ALL = re.compile(f"[\\x00-\\x1f{_HIDDEN}]")
_ALL_BUT_LINES = re.compile(f"[\\x00-\\x08\\x0b-\\x1f{_HIDDEN}]")
_UNSAFE_IN_NAMES = re.compile(f"[\\x00-\\x1f{_HIDDEN}/\\\\]")


def one_line(value: object) -> str:
    r"""Return a value as text in one line: every control character, line breaks included, is an escape.

    >>> print(one_line("red\x1b[31m\nblue"))
    red\x1b[31m\nblue
    """
    return _ALL.sub(_escape, str(value))


def printable(text: str) -> str:
    r"""Return text of several lines with all control characters but line breaks and tabs as escapes.

    >>> print(printable("red\x1b[31m"))
    red\x1b[31m
    """
    return _ALL_BUT_LINES.sub(_escape, text)


def file_name(name: str) -> str:
    """Return a name with `_` in place of control characters and of the separators of paths.

    >>> file_name("a/b")
    'a_b'
    """
    return _UNSAFE_IN_NAMES.sub("_", name)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
