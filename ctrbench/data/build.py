"""Build of a dataset's files from a raw frame: stage, split, encode, write.

Each step reads files or a few columns of numbers and writes files, so memory does not grow with the number of rows.
`prepare` provides the raw data and decides whether a build is necessary.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ctrbench.data.card import DatasetCard, FieldCard
from ctrbench.data.encode import Encoded, EncodedField, Numbers, RowOrder, encode_field
from ctrbench.data.manifest import FieldInfo, ShardInfo, SplitInfo
from ctrbench.data.raw_errors import READ_ERRORS, check_classes_of_splits
from ctrbench.data.shards import ContentDigest, vocabulary_file, write_shards, write_table
from ctrbench.data.split import Codes, hash_rows, hash_texts, split_by_hash, split_by_time, time_order
from ctrbench.data.staged_columns import KEY, field_column
from ctrbench.data.staging import Staged, stage, write_flat
from ctrbench.names import Column, Split
from ctrbench.readers.base import RawData

PhaseProgress = Callable[[str, float], None]
"""Called with the name of a phase and the fraction of it that is done."""

ENCODERS = 2
"""Number of fields encoded in parallel; each holds a few columns of numbers in memory."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """Entries of the manifest about the written files."""

    fields: tuple[FieldInfo, ...]
    splits: dict[Split, SplitInfo]
    vocabularies: tuple[ShardInfo, ...]
    columns: frozenset[str]
    content_digest: str


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """All columns of the shards, and the number of rows per split."""

    row_columns: dict[str, Encoded]
    """Row number, label, time and probability."""
    fields: dict[str, EncodedField]
    counts: dict[Split, int]

    @property
    def all(self) -> dict[str, Encoded]:
        return self.row_columns | {name: field.column for name, field in self.fields.items()}


def build(card: DatasetCard, raw: RawData, *, scratch: Path, folder: Path, progress: PhaseProgress) -> Built:
    """Write shards and vocabularies to `folder`; the reader's files in `scratch/raw` are removed after staging."""
    staged = _stage_raw_data(card, raw, scratch, progress)
    columns = _encode_fields(card, staged, scratch / "encoded", progress)
    # Frees the distinct texts, of which there may be many.
    del staged
    fields = tuple(_field_info(field, columns.fields[field.name]) for field in card.fields)
    splits, digest = _write_shards(folder, columns, progress)
    return Built(
        fields=fields,
        splits=splits,
        vocabularies=_write_vocabularies(folder, columns.fields),
        columns=frozenset(columns.all),
        content_digest=digest.hexdigest(columns.counts, fields),
    )


def _stage_raw_data(card: DatasetCard, raw: RawData, scratch: Path, progress: PhaseProgress) -> Staged:
    expected = _expected_rows(raw.files, scratch / "raw")
    staged = stage(
        raw,
        card,
        folder=scratch / "staged",
        progress=lambda done: progress("read", min(1.0, done / expected) if expected else 0.0),
    )
    shutil.rmtree(scratch / "raw")
    progress("read", 1.0)
    return staged


def _expected_rows(files: Sequence[Path], unpacked: Path) -> int | None:
    """Estimate the number of rows for the progress; None if that needs a pass over the data."""
    for parts in (list(unpacked.rglob("*.parquet")), files):
        if parts and all(file.suffix == ".parquet" for file in parts):
            with suppress(*READ_ERRORS, OSError):
                return sum(int(pq.read_metadata(file).num_rows) for file in parts)
    texts = [file for file in (*files, *unpacked.rglob("*")) if file.suffix in (".csv", ".txt", ".tsv")]
    size = sum(file.stat().st_size for file in texts)
    if not size:
        return None
    with texts[0].open("rb") as text:
        start = text.read(1 << 20)
    return max(1, round(size * start.count(b"\n") / max(1, len(start))))


def _encode_fields(card: DatasetCard, staged: Staged, folder: Path, progress: PhaseProgress) -> _Columns:
    folder.mkdir()
    rows, counts = _order_rows(card, staged)
    fields = {}
    with ThreadPoolExecutor(ENCODERS) as pool:
        results = pool.map(
            lambda field: encode_field(field, staged, rows, folder, target=card.target_of(field)), card.fields
        )
        for done, (field, result) in enumerate(zip(card.fields, results, strict=True), start=1):
            fields[field.name] = result
            progress("encode", done / len(card.fields))
    return _Columns(row_columns=_encode_row_columns(card, staged, rows, folder), fields=fields, counts=counts)


def _order_rows(card: DatasetCard, staged: Staged) -> tuple[RowOrder, dict[Split, int]]:
    times = staged.columns[Column.TIME].read() if Column.TIME in staged.columns else None
    codes = _assign_splits(card, staged)
    check_classes_of_splits(card.label.column, codes, staged.columns[Column.LABEL].read())
    order, counts = time_order(codes, times)
    return RowOrder(order=order, num_train=counts[Split.TRAIN]), counts


def _assign_splits(card: DatasetCard, staged: Staged) -> Codes:
    if card.split.by == "time":
        return split_by_time(staged.columns[Column.TIME].read(), card.split.parts)
    if card.split.key is None:
        return split_by_hash(hash_rows(staged.rows), card.split.parts)
    hashes = hash_texts(staged.texts[KEY])
    return split_by_hash(hashes[staged.columns[KEY].read()], card.split.parts)


def _encode_row_columns(
    card: DatasetCard, staged: Staged, rows: RowOrder, folder: Path
) -> dict[str, Encoded]:
    columns: dict[str, Encoded] = {Column.ROW: Numbers(flat=write_flat(folder / Column.ROW, rows.order))}
    for name in (Column.LABEL, Column.TIME, Column.PROBABILITY):
        if name in staged.columns:
            columns[name] = Numbers(flat=write_flat(folder / name, rows.arrange(staged.columns[name])))
    if card.user is not None:
        keys = _user_keys(staged, rows, field_column(card.user))
        columns[Column.USER_KEY] = Numbers(flat=write_flat(folder / Column.USER_KEY, keys))
    return columns


def _user_keys(staged: Staged, rows: RowOrder, column: str) -> NDArray[np.int64]:
    """Return a key per row: a hash of the user's text, or the bits of a number that is divided into buckets."""
    values = rows.arrange(staged.columns[column])
    keys = hash_texts(staged.texts[column])[values] if column in staged.texts else values
    return keys.view(np.int64)


def _field_info(card: FieldCard, encoded: EncodedField) -> FieldInfo:
    return FieldInfo(
        name=card.name,
        kind=card.kind,
        role=card.role,
        size=encoded.size,
        mean=encoded.mean,
        std=encoded.std,
        edges=encoded.edges,
    )


def _write_shards(
    folder: Path, columns: _Columns, progress: PhaseProgress
) -> tuple[dict[Split, SplitInfo], ContentDigest]:
    digest = ContentDigest()
    shards: dict[Split, list[Future[ShardInfo]]] = {split: [] for split in Split}
    positives = dict.fromkeys(Split, 0)
    done = 0
    for split, table, shard in write_shards(folder, columns.all, columns.counts):
        digest.update(table)
        positives[split] += int(np.asarray(table[Column.LABEL]).sum())
        shards[split].append(shard)
        done += table.num_rows
        progress("write", done / sum(columns.counts.values()))
    splits = {
        split: SplitInfo(
            rows=count,
            positives=positives[split],
            shards=tuple(shard.result() for shard in shards[split]),
        )
        for split, count in columns.counts.items()
    }
    return splits, digest


def _write_vocabularies(folder: Path, fields: Mapping[str, EncodedField]) -> tuple[ShardInfo, ...]:
    tables: dict[str, pa.Table] = {
        name: field.vocabulary.to_arrow() for name, field in fields.items() if field.vocabulary is not None
    }
    return tuple(write_table(folder, vocabulary_file(name), table) for name, table in tables.items())
