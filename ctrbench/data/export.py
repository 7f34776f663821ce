"""Export of a prepared dataset as plain parquet files, for programs that do not use ctrbench.

Rows keep the order and the splits of the prepared data. Ids are decoded to the values of the vocabularies. A value that
no training row has is null, since prepared data do not keep it. Rows are read and written shard by shard, so memory
does not grow with the dataset, and the folder appears when it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ctrbench.data.card import FieldCard
from ctrbench.data.manifest import FieldInfo
from ctrbench.data.prepared import Prepared
from ctrbench.errors import SettingError
from ctrbench.names import Column, Split
from ctrbench.storage.files import Location, find_files, move_folder, scratch_parent
from ctrbench.storage.scratch import scratch_folder

DESCRIPTION = "dataset.json"
"""Written last: a folder with this file is complete."""
SPLIT = "split"
"""Column with the name of the split."""


def export(
    prepared: Prepared,
    folder: Location,
    *,
    domain_set: str = "default",
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Location:
    """Write all rows to `folder` as `train-00000.parquet`, … and a description, `dataset.json`.

    Columns: row, label, time (if the card has a timestamp), probability (if it is known), split, domain (id in
    `domain_set`, 0 for unseen) and one column per field: text for categorical fields, lists of text for multi-valued
    fields and sequences, numbers for numeric fields (missing ones are the mean of training), intervals for numeric
    fields with buckets. Generated rows keep their integer ids, and their columns about the auction.

    Returns the folder. Raises `SettingError` if it is not empty, unless `overwrite` is set.
    """
    if not overwrite:
        check_export_folder(folder)
    decoder = _Decoder(prepared, domain_set)
    with scratch_folder(scratch_parent(folder.parent), folder.name) as scratch:
        _write_splits(decoder, scratch / "data", progress or _ignore_progress)
        return move_folder(scratch / "data", folder, last=DESCRIPTION)


def check_export_folder(folder: Location) -> None:
    """Raise `SettingError` unless the folder is empty or does not exist."""
    is_file = isinstance(folder, Path) and folder.exists() and not folder.is_dir()
    if is_file or find_files(folder, "*"):
        rule = "the export folder must be empty or new"
        raise SettingError(rule, value=folder, remedy="name another folder, or remove its files")


def _ignore_progress(_phase: str, _fraction: float) -> None:
    pass


def _write_splits(decoder: _Decoder, folder: Path, progress: Callable[[str, float], None]) -> None:
    folder.mkdir()
    manifest = decoder.prepared.manifest
    total, done = sum(part.rows for part in manifest.splits.values()), 0
    for split, part in manifest.splits.items():
        for index, shard in enumerate(part.shards):
            table = decoder.decode(split, decoder.prepared.read_shard(split, index))
            pq.write_table(table, folder / f"{split}-{index:05d}.parquet", compression="zstd")
            done += shard.rows
            progress("export", done / total)
    description = json.dumps(decoder.describe(), indent=1, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(description + "\n", encoding="utf-8")


class _Decoder:
    """Converts shards to tables of raw values."""

    def __init__(self, prepared: Prepared, domain_set: str) -> None:
        self.prepared, self.domain_set = prepared, domain_set
        self.features = prepared.domain_set(domain_set).features

    @cached_property
    def split_column(self) -> str:
        """Name of the split column, which no field may have."""
        names = {field.name for field in self.prepared.manifest.fields}
        return SPLIT if SPLIT not in names else f"{SPLIT}_"

    @cached_property
    def values(self) -> dict[str, pa.Array]:
        """Values of each field that has ids, indexed by id; null for id 0. Empty for generated data."""
        manifest = self.prepared.manifest
        fields = [] if manifest.generator is not None else [field for field in manifest.fields if field.size]
        return {field.name: self._vocabulary_values(manifest.card.field(field.name)) for field in fields}

    def _vocabulary_values(self, field: FieldCard) -> pa.Array:
        vocabulary = self.prepared.vocabulary(field.target or field.name)
        return pa.array([None, *vocabulary["value"].to_list()], pa.string())

    def decode(self, split: Split, table: pa.Table) -> pa.Table:
        """Return the raw values of the rows of a shard."""
        fields = {field.name: field for field in self.prepared.manifest.fields}
        columns = {name: table[name] for name in table.column_names if name not in {*fields, Column.USER_KEY}}
        columns[self.split_column] = pa.array([str(split)] * table.num_rows, pa.string())
        columns[Column.DOMAIN] = pa.array(self.prepared.domain_ids(table, self.domain_set))
        for name, field in fields.items():
            columns[name] = self._decode_field(field, table[name].combine_chunks())
        return pa.table(columns)

    def _decode_field(self, field: FieldInfo, column: pa.Array) -> pa.Array:
        if not field.size:
            return pa.array(_unscale(field, np.asarray(column)))
        if field.name not in self.values:
            return column
        values = self.values[field.name]
        if not pa.types.is_list(column.type):
            return values.take(column)
        offsets = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy())]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), values.take(column.flatten()))

    def describe(self) -> dict[str, Any]:
        """Return the content of the description."""
        manifest = self.prepared.manifest
        return {
            "name": manifest.name,
            "title": manifest.title,
            "note": manifest.note,
            "content_digest": manifest.content_digest,
            "rows": {str(split): part.rows for split, part in manifest.splits.items()},
            "fields": {field.name: {"kind": field.kind, "role": field.role} for field in manifest.fields},
            "domain_features": list(self.features),
            "user": manifest.card.user,
        }


def _unscale(field: FieldInfo, values: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """Undo the standardization of a numeric field, up to the rounding of float32."""
    if field.mean is None or field.std is None:
        return values
    return values.astype(np.float64) * (field.std or 1.0) + field.mean
