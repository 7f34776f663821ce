"""The manifest of a prepared dataset: its sources and its files.

The manifest is written last, so a folder with a manifest is complete. It holds the sha256 of every file. The content
digest is taken over the values instead of the files' bytes, so a new version of a file format's library changes no
run key.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from ctrbench.data.card import DatasetCard, Kind, Model, Role
from ctrbench.errors import DataError, SettingError, did_you_mean
from ctrbench.names import Split
from ctrbench.storage.files import Location, read_text, write_text

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


class FieldInfo(Model):
    """One encoded field."""

    name: str
    kind: Kind
    role: Role
    size: int
    """Number of ids, including 0 for unseen values; 0 for a numeric field without buckets."""
    mean: float | None = None
    std: float | None = None
    edges: tuple[float, ...] | None = None


class ShardInfo(Model):
    """One file of the dataset, its path relative to the folder."""

    file: str
    rows: int
    sha256: str
    """Empty if the file does not exist because its rows are generated on every read."""


class SplitInfo(Model):
    """One split and its shards, in time order."""

    rows: int
    positives: int
    shards: tuple[ShardInfo, ...]


class DomainSetInfo(Model):
    """One set of domain features and its domain table."""

    features: tuple[str, ...]
    num_domains: int
    """Excluding domain 0 (unseen)."""
    file: str
    sha256: str
    rows_unseen: dict[Split, int]


class SourceInfo(Model):
    """One raw file that was read."""

    name: str
    size: int
    sha256: str


class Manifest(Model):
    """Description of a prepared dataset; see the module's docstring."""

    schema_version: int = SCHEMA_VERSION
    name: str
    title: str
    card: DatasetCard
    card_digest: str
    sources: tuple[SourceInfo, ...]
    fields: tuple[FieldInfo, ...]
    splits: dict[Split, SplitInfo]
    domain_sets: dict[str, DomainSetInfo]
    vocabularies: tuple[ShardInfo, ...] = ()
    has_time: bool
    has_probability: bool
    content_digest: str
    """sha256 over all values of the shards and over the fields; part of every run key."""
    created: str
    note: str = ""
    command: str = "ctrbench prepare"
    """Command that prepares the dataset again."""
    generator: dict[str, Any] | None = None
    """Complete settings of the generator; None for data read from files."""

    def field(self, name: str) -> FieldInfo:
        """Return the field of that name; raises `SettingError` with the nearest name if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        names = [field.name for field in self.fields]
        raise SettingError("no such field", value=name, remedy=did_you_mean(name, names))


def read_manifest(folder: Location) -> Manifest:
    """Read the manifest of a prepared dataset.

    Raises `DataError` if it is missing, damaged or of another schema version.
    """
    path = folder / MANIFEST
    remedy = f"prepare it again: ctrbench prepare {folder.name} --force"
    try:
        raw = json.loads(read_text(path))
        version = int(raw["schema_version"])
        if version != SCHEMA_VERSION:
            remedy = "update ctrbench" if version > SCHEMA_VERSION else remedy
            rule = f"unsupported schema version {version} of prepared data (expected {SCHEMA_VERSION})"
            raise DataError(rule, value=path, remedy=remedy)
        return Manifest.model_validate(raw)
    except (OSError, KeyError, TypeError, json.JSONDecodeError, ValidationError):
        raise DataError("damaged manifest", value=path, remedy=remedy) from None


def write_manifest(folder: Location, manifest: Manifest) -> None:
    """Write the manifest atomically."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
