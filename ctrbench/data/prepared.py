"""Reading prepared data: rows, vocabularies and domains of a dataset on disk or at a URL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ctrbench.data.card import bundled_cards
from ctrbench.data.domains import count_tuples, domain_ids, make_domain_table, merge_counts
from ctrbench.data.home import dataset_folder, prepared_names
from ctrbench.data.manifest import DomainSetInfo, Manifest, add_domain_set, read_manifest
from ctrbench.data.shards import vocabulary_file, write_domain_table
from ctrbench.errors import DataError, SettingError, did_you_mean
from ctrbench.names import Column, Split
from ctrbench.storage.files import Fault, Location, find_faults, local_copy, sha256_of
from ctrbench.storage.outputs import check_folder
from ctrbench.synthetic.production.spec import DATA_VERSION

READERS = 2
"""Number of threads that read files."""


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset: the folder of its manifest, and the manifest."""

    root: Location
    manifest: Manifest

    @property
    def folder(self) -> Location:
        """The folder of the files that the manifest names."""
        return self.root / self.manifest.files

    def read(self, split: Split, columns: Sequence[str] | None = None, *, verify: bool = True) -> pa.Table:
        """Return all rows of a split, in the order of the shards.

        Raises `DataError` that names the file if one is missing or, with `verify`, does not match its sha256.
        """

        def read_shard(index: int) -> pa.Table:
            return self.read_shard(split, index, columns, verify=verify)

        with ThreadPoolExecutor(READERS) as pool:
            return pa.concat_tables(pool.map(read_shard, range(len(self.manifest.splits[split].shards))))

    def read_shard(
        self, split: Split, index: int, columns: Sequence[str] | None = None, *, verify: bool = True
    ) -> pa.Table:
        """Return the rows of one shard of a split; see `read`."""
        shard = self.manifest.splits[split].shards[index]
        if not shard.sha256:
            return self._generate_shard(split, index, columns)
        with self.local(shard.file, shard.sha256, verify=verify) as path:
            return pq.read_table(path, columns=None if columns is None else list(columns))

    def _generate_shard(self, split: Split, index: int, columns: Sequence[str] | None) -> pa.Table:
        """Generate the rows of a shard that is not stored."""
        from ctrbench.data.generated.rows import first_row, generate_rows, stored_columns

        content = json.dumps(self.manifest.generator, sort_keys=True)
        sizes = [shard.rows for shard in self.manifest.splits[split].shards]
        start = first_row(content, list(Split).index(split)) + sum(sizes[:index])
        return generate_rows(content, start, start + sizes[index], columns or stored_columns(content))

    @property
    def model_columns(self) -> list[str]:
        """Columns that training and scoring read."""
        manifest = self.manifest
        truth = [Column.PROBABILITY] if manifest.has_probability else []
        truth += [Column.CEILING] if manifest.generator is not None else []
        keys = [Column.USER_KEY] if manifest.has_user_key else []
        return [Column.ROW, Column.LABEL, *truth, *keys, *(field.name for field in manifest.fields)]

    def domain_table(self, set_name: str = "default") -> pl.DataFrame:
        """Return the domain table of a domain set, one row per domain.

        Columns: domain, key, the ids of the features, rows and positives per split. The first row is domain 0
        (unseen); the others are sorted by training rows, descending.
        """
        info = self.domain_set(set_name)
        with self.local(info.file, info.sha256) as path:
            return pl.from_arrow(pq.read_table(path))  # type: ignore[return-value]

    def domain_set(self, set_name: str) -> DomainSetInfo:
        """Return the domain set of that name; raises `SettingError` with the nearest name if there is none."""
        domain_sets = self.manifest.domain_sets
        if set_name not in domain_sets:
            remedy = did_you_mean(set_name, domain_sets)
            raise SettingError("no such domain set", value=set_name, remedy=remedy)
        return domain_sets[set_name]

    def domain_ids(self, table: pa.Table, set_name: str = "default") -> NDArray[np.int32]:
        """Return the domain of each row of a table that holds the encoded features of the domain set."""
        columns = {name: _to_numpy(table[name]) for name in self.domain_set(set_name).features}
        return domain_ids(columns, self.domain_table(set_name))

    def ensure_domains(self, features: tuple[str, ...]) -> tuple[Prepared, str]:
        """Return the dataset with a domain set of these features, and the name of that domain set.

        An existing domain set of the same features is returned; otherwise one named "a,b,c" is made from the shards
        and added to the dataset.
        """
        self.manifest.card.check_domain_features(features)
        for name, info in self.manifest.domain_sets.items():
            if info.features == features:
                return self, name
        check_folder(self.root, "CTRBENCH_HOME")
        name = ",".join(features)
        info = self.write_domain_set(name, features, verify=True)
        add_domain_set(self.root, self.manifest, name, info)
        sets = {**self.manifest.domain_sets, name: info}
        return Prepared(self.root, self.manifest.model_copy(update={"domain_sets": sets})), name

    def write_domain_set(
        self, name: str, features: tuple[str, ...], *, verify: bool = False
    ) -> DomainSetInfo:
        """Count the domains of a feature set in the shards, write their table and return its manifest entry."""
        values = {feature: self.vocabulary(feature)["value"] for feature in features}
        counts = {split: self.count_tuples(split, features, verify=verify) for split in Split}
        return write_domain_table(self.folder, name, features, make_domain_table(counts, values))

    def count_tuples(self, split: Split, features: tuple[str, ...], *, verify: bool = False) -> pl.DataFrame:
        """Count rows and positives per tuple of ids, shard by shard: memory does not grow with the rows."""
        counts = merge_counts([], features)
        for index in range(len(self.manifest.splits[split].shards)):
            table = self.read_shard(split, index, [Column.LABEL, *features], verify=verify)
            counts = merge_counts([counts, count_tuples(table, features)], features)
        return counts

    def vocabulary(self, field: str) -> pl.DataFrame:
        """Return the vocabulary of a field: columns id (from 1), value and rows (in training)."""
        file = vocabulary_file(self.manifest.field(field).name)
        vocabularies = [info.file for info in self.manifest.vocabularies]
        if self.manifest.generator is not None and file not in vocabularies:
            rule = "only low-cardinality fields of generated data have a vocabulary"
            remedy = did_you_mean(field, [Path(other).stem for other in vocabularies])
            raise SettingError(rule, value=field, remedy=remedy)
        digests = {info.file: info.sha256 for info in self.manifest.vocabularies}
        with self.local(file, digests.get(file)) as path:
            return pl.from_arrow(pq.read_table(path))  # type: ignore[return-value]

    def rows_per_id(self, fields: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Return the training rows of each id, the unseen one included, by field.

        They are those of the vocabularies; fields of generated data without one are counted in the training rows.
        """
        files = {info.file for info in self.manifest.vocabularies}
        counts = {}
        for name in fields:
            if vocabulary_file(name) in files:
                rows = self.vocabulary(name).sort("id")["rows"].to_numpy()
                counts[name] = np.concatenate([[0], rows]).astype(np.int64)
        uncounted = [name for name in fields if name not in counts]
        return counts | self._count_ids(uncounted) if uncounted else counts

    def _count_ids(self, fields: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Count the training rows of each id, shard by shard; an id that occurs twice in a list counts once."""
        counts = {name: np.zeros(self.manifest.field(name).size, dtype=np.int64) for name in fields}
        for index in range(len(self.manifest.splits[Split.TRAIN].shards)):
            table = self.read_shard(Split.TRAIN, index, list(fields))
            for name in fields:
                counts[name] += np.bincount(_distinct_ids(table[name]), minlength=len(counts[name]))
        return counts

    def verify(self) -> None:
        """Check all files; raises `DataError` that names the first one that is missing or damaged.

        Remote files are only checked for existence: their writes are atomic, and every read checks the sha256.
        """
        shards = [shard for split in self.manifest.splits.values() for shard in split.shards]
        digests = {info.file: info.sha256 for info in (*shards, *self.manifest.vocabularies) if info.sha256}
        digests |= {info.file: info.sha256 for info in self.manifest.domain_sets.values()}
        for file, fault in find_faults(self.folder, digests):
            raise self._file_error(fault, file)

    @contextmanager
    def local(self, file: str, sha256: str | None, *, verify: bool = True) -> Iterator[Path]:
        """Yield a local path to read one of the dataset's files from.

        Raises `DataError` that names the file if it is missing or, with `verify`, does not match its sha256.
        """
        with ExitStack() as stack:
            try:
                path = stack.enter_context(local_copy(self.folder / file, sha256))
            except FileNotFoundError:
                raise self._file_error("missing", file) from None
            if verify and sha256 is not None and sha256_of(path) != sha256:
                raise self._file_error("damaged", file)
            yield path

    def _file_error(self, fault: Fault, file: str) -> DataError:
        rule = f"a file of the prepared data is {fault}"
        remedy = f"prepare it again: {self.manifest.command} --force"
        return DataError(rule, value=self.folder / file, remedy=remedy)


def open_prepared(name: str, home: Location | None = None) -> Prepared:
    """Open a prepared dataset by name; raises `DataError` with the command that prepares it if there is none."""
    names = prepared_names(home)
    if name not in names:
        hint = f"; {did_you_mean(name, names)}" if names else ""
        raise DataError("no such prepared dataset", value=name, remedy=f"{_how_to_prepare(name)}{hint}")
    folder = dataset_folder(name, home)
    manifest = read_manifest(folder)
    _check_generator(manifest)
    return Prepared(folder, manifest)


def _check_generator(manifest: Manifest) -> None:
    """Raise `DataError` if generated data are of another version of the generator than the current one."""
    if manifest.generator is None:
        return
    version = manifest.generator.get("spec", {}).get("data_version", 1)
    if version != DATA_VERSION:
        rule = f"generated data must be of version {DATA_VERSION} of the generator"
        remedy = f"prepare it again: {manifest.command}"
        raise DataError(rule, value=f"{manifest.name} is of version {version}", remedy=remedy)


def _how_to_prepare(name: str) -> str:
    """Return a valid command: bundled cards have names, twins need a card and files, others the path of a card."""
    card = name.removesuffix("-twin")
    if card not in bundled_cards():
        return "prepare it with its card: ctrbench prepare CARD.toml"
    return f"prepare it with: ctrbench prepare {card}{'' if card == name else ' --source TWIN_FOLDER'}"


def _distinct_ids(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the ids of a column; of lists, the distinct ids of each row."""
    values = column.combine_chunks()
    if not pa.types.is_list(values.type):
        return np.asarray(values.to_numpy()).astype(np.int64)
    owner = np.repeat(np.arange(len(values)), values.value_lengths().to_numpy())
    pairs = np.unique(np.stack([owner, values.flatten().to_numpy()], axis=1), axis=0)
    return pairs[:, 1].astype(np.int64)


def _to_numpy(values: pa.ChunkedArray) -> NDArray[Any]:
    return np.asarray(values.to_numpy())
