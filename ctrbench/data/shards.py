"""Prepared data on disk: the manifest, the shards, and everything that reads them.

A dataset is a folder with a manifest, which is written last, and files of which the manifest knows the sha256. The
content digest is taken over the values, not over the files' bytes, so that the version of the library that wrote a
file does not change what runs are keyed by.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from ctrbench.data.card import DatasetCard, Kind, Model, Role, bundled_cards
from ctrbench.data.domains import count_tuples, domain_ids, make_domain_table, merged_counts
from ctrbench.data.encode import Encoded
from ctrbench.data.fetch import sha256_of
from ctrbench.errors import DataError, SettingError, did_you_mean
from ctrbench.names import Column, DomainColumn, Split
from ctrbench.storage.files import Place, local_copy, location, matching, read_text, replacing, write_text

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SHARD_ROWS = 1 << 18
COMPRESSION_LEVEL = 1
"""Of zstd; higher ones cost seconds and save little on ids."""
WRITERS = 2


class FieldInfo(Model):
    """One encoded field."""

    name: str
    kind: Kind
    role: Role
    size: int
    """Ids, the unseen one included; 0 for a plain numeric field."""
    mean: float | None = None
    std: float | None = None
    edges: tuple[float, ...] | None = None


class ShardInfo(Model):
    """One file of the dataset, its path relative to the folder."""

    file: str
    rows: int
    sha256: str
    """Empty where there is no file: the rows are generated when they are read."""


class SplitInfo(Model):
    """One split and its shards, in time order."""

    rows: int
    positives: int
    shards: tuple[ShardInfo, ...]


class DomainSetInfo(Model):
    """One domain feature set and its table."""

    features: tuple[str, ...]
    num_domains: int
    """Without the unseen domain 0."""
    file: str
    sha256: str
    rows_unseen: dict[Split, int]


class SourceInfo(Model):
    """One raw file that was read."""

    name: str
    size: int
    sha256: str


class Manifest(Model):
    """What `prepare` made of which card and which files."""

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
    """sha256 over all values of the shards and over the fields; what runs are keyed by."""
    created: str
    note: str = ""
    command: str = "ctrbench prepare"
    """Makes the dataset again."""
    generator: dict[str, Any] | None = None
    """Of generated data, all that determines every row."""

    def field(self, name: str) -> FieldInfo:
        """Return the field of that name, or say which name is near."""
        for field in self.fields:
            if field.name == name:
                return field
        names = [field.name for field in self.fields]
        raise SettingError("no such field", value=name, remedy=did_you_mean(name, names))


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset: its folder and its manifest."""

    folder: Place
    manifest: Manifest

    def read(self, split: Split, columns: Sequence[str] | None = None, *, verify: bool = True) -> pa.Table:
        """Return all rows of a split, in the order of the shards.

        Raises `DataError` that names the file when one is missing or, with `verify`, not as it was written.
        """

        def read_one(place: int) -> pa.Table:
            return self.read_shard(split, place, columns, verify=verify)

        with ThreadPoolExecutor(WRITERS) as pool:
            return pa.concat_tables(pool.map(read_one, range(len(self.manifest.splits[split].shards))))

    def read_shard(
        self, split: Split, place: int, columns: Sequence[str] | None = None, *, verify: bool = True
    ) -> pa.Table:
        """Return the rows of one shard of a split; see `read`."""
        shard = self.manifest.splits[split].shards[place]
        if not shard.sha256:
            return self._made(split, place, columns)
        with self.local(shard.file, shard.sha256, verify=verify) as path:
            return pq.read_table(path, columns=None if columns is None else list(columns))

    def _made(self, split: Split, place: int, columns: Sequence[str] | None) -> pa.Table:
        """Generate a shard that is not stored."""
        from ctrbench.data.synthesis import first_row, made_rows, stored_columns

        content = json.dumps(self.manifest.generator, sort_keys=True)
        sizes = [shard.rows for shard in self.manifest.splits[split].shards]
        start = first_row(content, list(Split).index(split)) + sum(sizes[:place])
        return made_rows(content, start, start + sizes[place], columns or stored_columns(content))

    @property
    def model_columns(self) -> list[str]:
        """Columns that training and scoring read."""
        manifest = self.manifest
        truth = [Column.PROBABILITY] if manifest.has_probability else []
        truth += [Column.CEILING] if manifest.generator is not None else []
        return [Column.ROW, Column.LABEL, *truth, *(field.name for field in manifest.fields)]

    def domain_table(self, set_name: str = "default") -> pl.DataFrame:
        """Return one row a domain: domain, key, the features' ids, rows and positives a split.

        The first row is the unseen domain 0; the others go by training rows, descending.
        """
        info = self.domain_set(set_name)
        with self.local(info.file, info.sha256) as path:
            return pl.from_arrow(pq.read_table(path))  # type: ignore[return-value]

    def domain_set(self, set_name: str) -> DomainSetInfo:
        """Return the domain set of that name, or say which name is near."""
        known = self.manifest.domain_sets
        if set_name not in known:
            raise SettingError("no such domain set", value=set_name, remedy=did_you_mean(set_name, known))
        return known[set_name]

    def domain_ids(self, table: pa.Table, set_name: str = "default") -> NDArray[np.int32]:
        """Return the domain of each row of a table that holds the set's encoded features."""
        columns = {name: _numpy(table[name]) for name in self.domain_set(set_name).features}
        return domain_ids(columns, self.domain_table(set_name))

    def ensure_domains(self, features: tuple[str, ...]) -> tuple[Prepared, str]:
        """Return the dataset with a domain set of these features, made from the shards where it is new.

        The name of a new set is "a,b,c"; a set that has the same features already is returned by its name.
        """
        self.manifest.card.check_domain_features(features)
        # Another process may have added a set since this manifest was read.
        manifest = _read_manifest(self.folder)
        for name, info in manifest.domain_sets.items():
            if info.features == features:
                return Prepared(self.folder, manifest), name
        name = ",".join(features)
        info = write_domain_set(self, name, features, verify=True)
        manifest = manifest.model_copy(update={"domain_sets": {**manifest.domain_sets, name: info}})
        write_manifest(self.folder, manifest)
        return Prepared(self.folder, manifest), name

    def vocabulary(self, field: str) -> pl.DataFrame:
        """Return id, value and training rows of a field's ids from 1 on."""
        file = vocabulary_file(self.manifest.field(field).name)
        if self.manifest.generator is not None and file not in {
            info.file for info in self.manifest.vocabularies
        }:
            known = [Path(info.file).stem for info in self.manifest.vocabularies]
            rule = "values of generated data are counted for fields of few values"
            raise SettingError(rule, value=field, remedy=did_you_mean(field, known))
        with self.local(file, None) as path:
            return pl.from_arrow(pq.read_table(path))  # type: ignore[return-value]

    def verify(self) -> None:
        """Raise `DataError` that names the first file that is missing or not as it was written.

        Of files at a URL only that they are there: they cannot be written halfway, and reading one checks it.
        """
        files = [shard for split in self.manifest.splits.values() for shard in split.shards]
        digests = {file.file: file.sha256 for file in (*files, *self.manifest.vocabularies) if file.sha256}
        digests |= {info.file: info.sha256 for info in self.manifest.domain_sets.values()}
        if not isinstance(self.folder, Path):
            there = {str(place) for place in matching(self.folder, "**/*")}
            for file in digests:
                if str(self.folder / file) not in there:
                    raise self._fault("missing", file)
            return
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(self._check, digests, digests.values()))

    @contextmanager
    def local(self, file: str, sha256: str | None, *, verify: bool = True) -> Iterator[Path]:
        """Yield a path of this machine to read one of the files from.

        Raises `DataError` that names the file when it is missing or, with `verify`, not as it was written.
        """
        with ExitStack() as stack:
            try:
                path = stack.enter_context(local_copy(self.folder / file, sha256))
            except FileNotFoundError:
                raise self._fault("missing", file) from None
            if verify and sha256 is not None and sha256_of(path) != sha256:
                raise self._fault("damaged", file)
            yield path

    def _check(self, file: str, sha256: str) -> None:
        with self.local(file, sha256):
            pass

    def _fault(self, what: str, file: str) -> DataError:
        remedy = f"make it again with: {self.manifest.command} --force"
        return DataError(f"a file of the prepared data is {what}", value=self.folder / file, remedy=remedy)


def home_folder() -> Place:
    """Return where prepared data, downloads and runs live: CTRBENCH_HOME, a URL too, or the user's cache folder."""
    home = os.environ.get("CTRBENCH_HOME")
    return location(home) if home else Path(platformdirs.user_cache_dir("ctrbench"))


def dataset_folder(name: str, home: Place | None = None) -> Place:
    """Return the folder of a prepared dataset, whether it is there or not."""
    return (home or home_folder()) / "datasets" / name


def prepared_names(home: Place | None = None) -> list[str]:
    """Return the names of all prepared datasets."""
    folder = (home or home_folder()) / "datasets"
    # What is being made has a name with a leading dot.
    names = sorted(file.parent.name for file in matching(folder, f"*/{MANIFEST}"))
    return [name for name in names if name[0] != "."]


def latest_prepared(home: Place | None = None) -> str:
    """Return the name of the dataset prepared last."""
    names = prepared_names(home)
    if not names:
        raise DataError("no dataset is prepared", remedy="prepare one with: ctrbench prepare movielens-1m")
    return max(names, key=lambda name: (dataset_folder(name, home) / MANIFEST).stat().st_mtime_ns)


def open_prepared(name: str, home: Place | None = None) -> Prepared:
    """Open a prepared dataset by name."""
    names = prepared_names(home)
    if name not in names:
        hint = f"; {did_you_mean(name, names)}" if names else ""
        raise DataError("no such prepared dataset", value=name, remedy=f"{_how_to_prepare(name)}{hint}")
    folder = dataset_folder(name, home)
    return Prepared(folder, _read_manifest(folder))


def _how_to_prepare(name: str) -> str:
    """Name a command that exists: bundled cards go by name, a twin by its card and files, all else by a card's path."""
    card = name.removesuffix("-twin")
    if card not in bundled_cards():
        return "prepare it with its card: ctrbench prepare CARD.toml"
    return f"prepare it with: ctrbench prepare {card}{'' if card == name else ' --source TWIN_FOLDER'}"


def _read_manifest(folder: Place) -> Manifest:
    path = folder / MANIFEST
    remedy = f"make it again with: ctrbench prepare {folder.name} --force"
    try:
        raw = json.loads(read_text(path))
        version = int(raw["schema_version"])
        if version != SCHEMA_VERSION:
            remedy = "update ctrbench" if version > SCHEMA_VERSION else remedy
            rule = f"prepared data of schema {SCHEMA_VERSION} are needed, these have {version}"
            raise DataError(rule, value=path, remedy=remedy)
        return Manifest.model_validate(raw)
    except (OSError, KeyError, TypeError, json.JSONDecodeError, ValidationError):
        raise DataError("a manifest is damaged", value=path, remedy=remedy) from None


def write_manifest(folder: Place, manifest: Manifest) -> None:
    """Write the manifest in one step: readers see the old one or the new one."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def vocabulary_file(field: str) -> str:
    """Return the path of a field's vocabulary, relative to the dataset's folder."""
    return f"vocabulary/{field}.parquet"


def write_table(folder: Place, file: str, table: pa.Table) -> ShardInfo:
    """Write one parquet file in one step and return what the manifest keeps of it."""
    path = folder / file
    with replacing(path) as part:
        pq.write_table(
            table,
            part,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            use_dictionary=False,
            write_statistics=False,
        )
        digest = sha256_of(part)
    return ShardInfo(file=file, rows=table.num_rows, sha256=digest)


def write_shards(
    folder: Path, columns: Mapping[str, Encoded], rows: Mapping[Split, int]
) -> Iterator[tuple[Split, pa.Table, Future[ShardInfo]]]:
    """Write the columns' rows, which stand split after split, and yield each shard when it is handed to a writer."""
    start = 0
    with ThreadPoolExecutor(WRITERS) as pool:
        pending: list[Future[ShardInfo]] = []
        for split, count in rows.items():
            for place, first in enumerate(range(start, start + count, SHARD_ROWS)):
                stop = min(first + SHARD_ROWS, start + count)
                table = pa.table({name: column.take(first, stop) for name, column in columns.items()})
                file = f"shards/{split}-{place:05d}.parquet"
                # Never more shards in memory than there are writers.
                if len(pending) >= WRITERS:
                    pending.pop(0).result()
                pending.append(pool.submit(write_table, folder, file, table))
                yield split, table, pending[-1]
            start += count


class ContentDigest:
    """A sha256 over values, whatever the shards' boundaries and the bytes of their files."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {}

    def update(self, table: pa.Table) -> None:
        """Add the rows of a table."""
        for name, column in zip(table.column_names, table.columns, strict=True):
            values = column.combine_chunks()
            if pa.types.is_list(values.type):
                self._add(f"{name} lengths", values.value_lengths())
                values = values.flatten()
            self._add(f"{name} {values.type}", values)

    def _add(self, name: str, values: pa.Array) -> None:
        numbers = np.ascontiguousarray(_numpy(values))
        little = numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)
        self._columns.setdefault(name, hashlib.sha256()).update(little.data.cast("B") if len(little) else b"")

    def hexdigest(self, rows: Mapping[Split, int], fields: Sequence[FieldInfo]) -> str:
        """Return the digest of all rows added, of the splits' sizes and of the fields."""
        content = {
            "columns": {name: digest.hexdigest() for name, digest in self._columns.items()},
            "fields": [field.model_dump(mode="json") for field in fields],
            "rows": {str(split): count for split, count in rows.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_domain_set(
    prepared: Prepared, name: str, features: tuple[str, ...], *, verify: bool = False
) -> DomainSetInfo:
    """Make the domain table of a feature set from the shards and write it."""
    values = {feature: prepared.vocabulary(feature)["value"] for feature in features}
    counts = {split: _tuple_counts(prepared, split, features, verify=verify) for split in Split}
    return save_domain_set(prepared.folder, name, features, make_domain_table(counts, values))


def _tuple_counts(
    prepared: Prepared, split: Split, features: tuple[str, ...], *, verify: bool
) -> pl.DataFrame:
    """Count rows and positives of each tuple of ids, shard by shard, so that memory does not grow with the rows."""
    shards = range(len(prepared.manifest.splits[split].shards))
    tables = (prepared.read_shard(split, place, [Column.LABEL, *features], verify=verify) for place in shards)
    merged = merged_counts([], features)
    for table in tables:
        merged = merged_counts([merged, count_tuples(table, features)], features)
    return merged


def save_domain_set(
    folder: Place, name: str, features: tuple[str, ...], table: pl.DataFrame
) -> DomainSetInfo:
    """Write a domain table and return what the manifest keeps of it."""
    # A file's name has its limits, and a set may have any number of features.
    stem = name if len(name) <= 100 else hashlib.sha256(name.encode()).hexdigest()[:16]
    info = write_table(folder, f"domains/{stem}.parquet", table.to_arrow())
    unseen = {split: int(table[DomainColumn.ROWS.format(split=split)][0]) for split in Split}
    return DomainSetInfo(
        features=features,
        num_domains=table.height - 1,
        file=info.file,
        sha256=info.sha256,
        rows_unseen=unseen,
    )


def _numpy(values: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    return np.asarray(values.to_numpy())
