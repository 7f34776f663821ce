"""Dataset cards: TOML files that describe a dataset completely except for its rows.

A card lists the sources with checksum and license, the reader of the raw format, the label, the fields with kind and
role, the split rule and the named domain sets. Loading a card checks everything that can be checked without the data;
`prepare` checks the rest, such as missing columns.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from ctrbench.added_fields import added_field, unchanged_added_fields
from ctrbench.data.card_values import (
    MAX_BUCKETS,
    MAX_COUNT,
    MAX_LENGTH,
    ColumnSeparator,
    DatasetName,
    Kind,
    LabelCard,
    ListSeparator,
    Model,
    Name,
    Paragraph,
    PathText,
    Role,
    Source,
    SourceColumn,
    SplitCard,
    Text,
)
from ctrbench.discovery import find
from ctrbench.errors import CardError, CtrbenchError, SettingError, did_you_mean
from ctrbench.names import Column, DomainColumn, Split
from ctrbench.problems import (
    Problem,
    combine,
    describe_problem,
    errors_of,
    raise_all,
    shown_problems,
)
from ctrbench.readers.base import READERS
from ctrbench.storage.documents import read_toml
from ctrbench.storage.files import sha256_of

LIST_SEPARATOR = "|"
COLUMN_SEPARATOR = ","
TWIN_SUFFIX = "-twin"
"""End of the names of synthetic twins of a dataset."""
GENERATED_NAME = re.compile(r"production-\d")
"""Beginning of the names of generated datasets."""

RESERVED = frozenset(
    {Column.ROW, Column.LABEL, Column.TIME, Column.PROBABILITY, Column.DOMAIN, DomainColumn.KEY}
    | {name.format(split=split) for name in (DomainColumn.ROWS, DomainColumn.POSITIVES) for split in Split}
)
"""Names of the columns that shards and domain tables have beside the fields."""


class FieldCard(Model):
    """One feature: its column, kind and role."""

    name: Name
    kind: Kind = "categorical"
    role: Role = "other"
    column: SourceColumn | None = None
    """Column of the raw data (default: the field's name)."""
    separator: ListSeparator = LIST_SEPARATOR
    """Separator of multi-valued and sequence columns that hold text."""
    max_length: int | None = Field(default=None, ge=1, le=MAX_LENGTH)
    """Maximum length of lists: multi-valued fields keep their first values, sequences their last ones."""
    buckets: int | None = Field(default=None, ge=2, le=MAX_BUCKETS)
    """Numeric only: number of quantile buckets of the training rows, which make the field categorical."""
    min_count: int = Field(default=1, ge=1, le=MAX_COUNT)
    """Values with fewer training rows are treated as unseen."""
    target: Name | None = added_field(None)
    """Sequence only: the categorical field whose earlier values it holds; both share ids and embeddings."""

    @field_validator("name")
    @classmethod
    def _check_reserved(cls, name: str) -> str:
        if name in RESERVED:
            remedy = f"rename the field and set column = {name!r}"
            raise SettingError("the name of a field must not be reserved", value=name, remedy=remedy)
        return name

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        # Defaults are accepted, since a card that is read from a manifest has every key.
        is_list = self.kind in ("multi_valued", "sequence")
        faults = {
            "only numeric fields have buckets": self.buckets is not None and self.kind != "numeric",
            "numeric fields have no min_count": self.min_count > 1 and self.kind == "numeric",
            "only sequence fields have a target": self.target is not None and self.kind != "sequence",
            "min_count is set on the target, which defines the ids": self.target and self.min_count > 1,
            "only multi_valued and sequence fields have max_length": not is_list and self.max_length,
            "only multi_valued and sequence fields have a separator": (
                not is_list and self.separator != LIST_SEPARATOR
            ),
        }
        remedy = "remove the key, or correct the field's kind"
        raise_all(
            SettingError(rule, value=f"{self.name} is {self.kind}", remedy=remedy)
            for rule, is_broken in faults.items()
            if is_broken
        )
        return self

    @property
    def source_column(self) -> str:
        """The raw column of the field."""
        return self.column or self.name

    @property
    def is_single_id(self) -> bool:
        """Whether a row has exactly one id of this field, as domain features require."""
        return self.kind == "categorical" or self.buckets is not None


class DatasetCard(Model):
    """Description of a dataset; see the module's docstring."""

    name: DatasetName
    title: Text
    description: Paragraph = ""
    """A paragraph about rows, label and origin."""
    homepage: Text = ""
    """URL of a page about the dataset."""
    reader: PathText = "table"
    """Name of a reader, or path of its `.py` file relative to the card; see `ctrbench.readers.base`."""
    generator: Literal["production"] | None = None
    """Generator of synthetic rows, in place of a reader and sources."""
    sources: tuple[Source, ...] = ()
    path: PathText | None = None
    """The data file or folder, relative to the card, in place of sources."""
    separator: ColumnSeparator = COLUMN_SEPARATOR
    """Column separator of text files, for readers that use one."""
    label: LabelCard
    timestamp: SourceColumn | None = None
    """Column with integers or datetimes; without a timestamp, the default split is by hash."""
    split: SplitCard
    fields: tuple[FieldCard, ...] = Field(min_length=1)
    domain_sets: dict[Name, tuple[Name, ...]] = Field(min_length=1)
    """Named sets of domain features; `default` is required."""
    representative: Name
    """The domain feature that indexes per-domain parameters by default."""
    user: Name | None = None
    """Field whose ids group rows by user in metrics."""
    probability: SourceColumn | None = None
    """Column with the true click probability of synthetic data."""
    _origin: Path | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, data: Any) -> Any:  # noqa: ANN401  # pydantic passes the content of the file, of any type
        if not isinstance(data, dict):
            return data
        if "split" not in data:
            data = {**data, "split": {"by": "time" if data.get("timestamp") else "hash"}}
        # Manifests of earlier versions name the generator as the reader.
        return (
            data | {"reader": "table", "generator": "production"}
            if data.get("reader") == "production"
            else data
        )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        feature_sets = dict.fromkeys((*self.domain_sets.values(), (self.representative,)))
        checks = [partial(self.check_domain_features, features) for features in feature_sets]
        checks += [partial(self._check_target, field) for field in self.fields]
        raise_all((*self._broken_rules(), *errors_of(checks)))
        return self

    def _broken_rules(self) -> Iterator[SettingError]:
        if self.generator is not None and (self.reader != "table" or self.sources or self.path is not None):
            rule = "a card with a generator has no reader, no sources and no path"
            yield SettingError(rule, value=self.generator, remedy="remove generator, or the other keys")
        names = [field.name for field in self.fields]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            remedy = "remove one of them, or rename it and set its column"
            yield SettingError("duplicate field", value=", ".join(duplicates), remedy=remedy)
        if self.split.by == "time" and self.timestamp is None:
            remedy = "name the column of the time, or set split.by = 'hash'"
            yield SettingError("split.by = 'time' requires timestamp", remedy=remedy)
        if "default" not in self.domain_sets:
            remedy = "rename one of them, or add default"
            rule = "domain_sets must have a set named 'default'"
            yield SettingError(rule, value=", ".join(self.domain_sets), remedy=remedy)
        if self.user in names and not self.field(self.user).is_single_id:
            rule = "the user field must have one id per row"
            yield SettingError(
                rule, value=f"{self.user} is {self.field(self.user).kind}", remedy="name another field"
            )
        elif self.user is not None and self.user not in names:
            yield self._no_such_field(self.user)

    def _check_target(self, field: FieldCard) -> None:
        target = self.target_of(field)
        if target is not None and target.kind != "categorical":
            rule = "the target of a sequence must be categorical"
            value = f"{target.name} of {field.name} is {target.kind}"
            raise SettingError(rule, value=value, remedy="name another target, or remove it")

    def target_of(self, field: FieldCard) -> FieldCard | None:
        """Return the field whose values a sequence holds, or None."""
        return None if field.target is None else self.field(field.target)

    def field(self, name: str) -> FieldCard:
        """Return the field of that name; raises `SettingError` with the nearest name if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise self._no_such_field(name)

    def _no_such_field(self, name: str) -> SettingError:
        remedy = did_you_mean(name, [field.name for field in self.fields])
        return SettingError(f"dataset {self.name!r} has no such field", value=name, remedy=remedy)

    def check_domain_features(self, features: tuple[str, ...]) -> None:
        """Raise `SettingError` unless the features are distinct fields with exactly one id per row."""
        if not features or len(set(features)) != len(features):
            shown = ", ".join(features) or "no field"
            raise SettingError(
                "a domain set must consist of at least one field, each once", value=shown, remedy="correct it"
            )
        for name in features:
            if not self.field(name).is_single_id:
                raise SettingError(
                    "a domain feature must have one id per row",
                    value=f"{name} is {self.field(name).kind}",
                    remedy="use a categorical field, or a numeric one with buckets",
                )
            if self.field(name).min_count > 1:
                # Training rows of rare values would have no domain.
                rule = "a domain feature must not have min_count"
                raise SettingError(rule, value=f"{name}: min_count", remedy="remove min_count")

    @property
    def origin(self) -> Path | None:
        """The file that the card was read from, for messages."""
        return self._origin

    @property
    def file(self) -> str | None:
        """The absolute path of the card, the name of a bundled one, or None for a card made in Python."""
        if self._origin is None or bundled_cards().get(self.name) == self._origin:
            return None if self._origin is None else self.name
        return str(self._origin.resolve())

    @property
    def digest(self) -> str:
        """The sha256 of the card's content, independent of the locations of card, data and reader."""
        content = self.model_dump(mode="json", exclude={"path", "generator", "fields"})
        content["reader"] = self.generator or _reader_identity(self.reader)
        content["fields"] = [
            field.model_dump(mode="json", exclude=unchanged_added_fields(field)) for field in self.fields
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _reader_identity(reader: str) -> str:
    """Return the reader's name; for a file also its sha256, so that changing the reader changes the digest."""
    file = Path(reader)
    return f"{file.name} {sha256_of(file)}" if file.suffix == ".py" else reader


def bundled_cards() -> dict[str, Path]:
    """Return the paths of the cards that are part of ctrbench, by name, without parsing them."""
    folders = (Path(str(files("ctrbench"))) / "datasets", Path(__file__).parents[2] / "datasets")
    return {
        path.stem: path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.toml"))
    }


def load_card(name_or_path: str) -> DatasetCard:
    """Load a bundled card by name, or any card by its path.

    Raises `SettingError` for an unknown name and `CardError` for a file that is not a valid card.
    """
    if not name_or_path.endswith(".toml"):
        cards = bundled_cards()
        if name_or_path not in cards:
            remedy = f"{did_you_mean(name_or_path, cards)}; or pass the path of a card, my.toml"
            raise SettingError("no such dataset", value=name_or_path, remedy=remedy)
        return read_card(cards[name_or_path])
    return read_card(Path(name_or_path))


def read_card(path: Path) -> DatasetCard:
    """Read and check one card file; relative paths of data and reader start at the card's folder."""
    try:
        raw = read_toml(path, "card", CardError)
    except FileNotFoundError:
        raise CardError("no such card", value=path, remedy="draft one with: ctrbench card DATA.csv") from None
    return check_card(raw, path)


def check_card(content: Mapping[str, Any], path: Path) -> DatasetCard:
    """Return the card in the file `path` with this content; raises `CardError` with its problems."""
    try:
        card = _with_absolute_paths(DatasetCard.model_validate(content), path.parent)
        _check_reader(card)
        _check_name_is_free(card, path)
    except ValidationError as error:
        raise _card_error(path, [_describe_problem(problem) for problem in shown_problems(error)]) from None
    except SettingError as error:
        raise _card_error(path, [error]) from None
    card._origin = path
    return card


def _with_absolute_paths(card: DatasetCard, folder: Path) -> DatasetCard:
    paths = {"path": card.path, "reader": card.reader if card.reader.endswith(".py") else None}
    relative = {key: path for key, path in paths.items() if path is not None and not Path(path).is_absolute()}
    return card.model_copy(update={key: _resolve(folder / path) for key, path in relative.items()})


def _resolve(path: Path) -> str:
    try:
        return str(path.resolve())
    except (OSError, RuntimeError):
        remedy = "correct the path, or the links of its folders"
        raise SettingError("a path must lead to a file or a folder", value=path, remedy=remedy) from None


def _check_name_is_free(card: DatasetCard, path: Path) -> None:
    """Raise `SettingError` if another card would take the name of a dataset that comes with ctrbench."""
    cards = bundled_cards()
    file = cards.get(card.name.removesuffix(TWIN_SUFFIX))
    is_generated = GENERATED_NAME.match(card.name) is not None or card.generator is not None
    if (file is None and not is_generated) or (file is not None and path.resolve() == file.resolve()):
        return
    if file is None or card.generator is not None or card.digest != read_card(file).digest:
        rule = "a card must not have the name or the generator of a dataset that comes with ctrbench"
        remedy = "choose another name, and describe rows by path or sources"
        raise SettingError(rule, value=card.name, remedy=remedy)


def _check_reader(card: DatasetCard) -> None:
    """Raise `SettingError` for an unknown reader, or for a separator that the reader does not use."""
    reader = find(READERS, card.reader)
    if card.separator != COLUMN_SEPARATOR and not reader.load().uses_separator:
        rule = "separator must not be set for a reader with a fixed separator"
        raise SettingError(rule, value=card.reader, remedy="remove separator")


def _card_error(path: Path, errors: Sequence[CtrbenchError]) -> CardError:
    remedy = "the guide docs/guide/own-data.md lists the keys; ctrbench card DATA.csv drafts a card"
    error = combine("a card must be complete and consistent", path, errors, remedy=remedy)
    return CardError(error.rule, value=error.value, remedy=error.remedy)


def _describe_problem(problem: Problem) -> CtrbenchError:
    return describe_problem(problem, _keys_at(problem.location))


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the valid keys of the table that a location leads to."""
    tables: dict[str, type[Model]] = {
        "fields": FieldCard,
        "sources": Source,
        "label": LabelCard,
        "split": SplitCard,
    }
    table = tables.get(str(location[0]), DatasetCard) if len(location) > 1 else DatasetCard
    return list(table.model_fields)
