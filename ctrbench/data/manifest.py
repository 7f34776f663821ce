"""The manifest of a prepared dataset: its sources and its files.

    <home>/datasets/<name>/manifest.json     replaced atomically, once all files exist
    <home>/datasets/<name>/files-…/          the files that the manifest names; new data get a new folder

A reader therefore sees the old dataset or the new one. The manifest holds the sha256 of every file and of itself. The
content digest is taken over the values instead of the files' bytes, so a new version of a file format's library changes
no run key. A domain set that is added later has a file of its own, so that processes that add sets at once lose none.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import model_validator

from ctrbench.data.card import DatasetCard
from ctrbench.data.card_values import Kind, Model, Role
from ctrbench.errors import DataError, SettingError, did_you_mean
from ctrbench.names import Split
from ctrbench.storage.checksummed import digest_of, with_checksum, without_checksum
from ctrbench.storage.documents import read_json
from ctrbench.storage.files import Location, find_files, write_text

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
ADDED_SETS = "added"
"""Folder, among the dataset's files, of the domain sets that were added after the preparation."""


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
    files: str
    """Folder of all other files, relative to the manifest's."""
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
    has_user_key: bool
    content_digest: str
    """sha256 over all values of the shards and over the fields; part of every run key."""
    created: str
    note: str = ""
    command: str = "ctrbench prepare"
    """Command that prepares the dataset again."""
    card_file: str | None = None
    """Absolute path of the card, or name of a bundled one; None for a card that was not read from a file."""
    generator: dict[str, Any] | None = None
    """Complete settings of the generator; None for data read from files."""

    @model_validator(mode="after")
    def _has_all_parts(self) -> Manifest:
        missing = [split for split in Split if split not in self.splits or not self.splits[split].shards]
        if missing:
            raise ValueError(f"every split must have a shard, but {missing[0]} has none")
        return self

    def field(self, name: str) -> FieldInfo:
        """Return the field of that name; raises `SettingError` with the nearest name if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        names = [field.name for field in self.fields]
        raise SettingError("no such field", value=name, remedy=did_you_mean(name, names))


def read_manifest(folder: Location) -> Manifest:
    """Read the manifest of the dataset in a folder, with the domain sets that were added later.

    Raises `DataError` if it is missing, damaged, changed by hand or of another schema version.
    """
    path = folder / MANIFEST
    remedy = f"prepare it again: ctrbench prepare {folder.name} --force"
    try:
        raw = read_json(path)
        version = raw["schema_version"]
        if version != SCHEMA_VERSION:
            is_newer = isinstance(version, int) and version > SCHEMA_VERSION
            rule = f"unsupported schema version {version!r} of prepared data (expected {SCHEMA_VERSION})"
            raise DataError(rule, value=path, remedy="update ctrbench" if is_newer else remedy)
        manifest = Manifest.model_validate(without_checksum(raw))
    except DataError:
        raise
    except (OSError, LookupError, ArithmeticError, TypeError, ValueError, RecursionError):
        raise DataError("damaged manifest", value=path, remedy=remedy) from None
    return _with_added_sets(folder, manifest)


def write_checksummed(file: Location, content: dict[str, Any]) -> None:
    """Write a JSON file atomically, with the sha256 of its content as one more key."""
    write_text(file, json.dumps(with_checksum(content), indent=1) + "\n")


def write_manifest(folder: Location, manifest: Manifest) -> None:
    """Write the manifest of the dataset in a folder atomically."""
    write_checksummed(folder / MANIFEST, manifest.model_dump(mode="json"))


def add_domain_set(folder: Location, manifest: Manifest, name: str, info: DomainSetInfo) -> None:
    """Add a domain set to a prepared dataset, in a file of its own."""
    file = folder / manifest.files / ADDED_SETS / f"{digest_of(name)[:20]}.json"
    entry = {"name": name, "domain_set": info.model_dump(mode="json")}
    write_checksummed(file, {"content_digest": manifest.content_digest, **entry})


def _with_added_sets(folder: Location, manifest: Manifest) -> Manifest:
    """Return the manifest with the added domain sets.

    Damaged files of such sets are ignored: `Prepared.ensure_domains` adds the set again.
    """
    added = {}
    for file in find_files(folder / manifest.files / ADDED_SETS, "*.json"):
        try:
            content = without_checksum(read_json(file))
            if content["content_digest"] == manifest.content_digest:
                added[str(content["name"])] = DomainSetInfo.model_validate(content["domain_set"])
        except (OSError, LookupError, TypeError, AttributeError, ValueError, RecursionError):
            continue
    return (
        manifest.model_copy(update={"domain_sets": {**added, **manifest.domain_sets}}) if added else manifest
    )
