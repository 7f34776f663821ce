"""Writing the parquet files of a prepared dataset, and the digest over their values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ctrbench.data.encode import Encoded
from ctrbench.data.manifest import DomainSetInfo, FieldInfo, ShardInfo
from ctrbench.names import DomainColumn, Split
from ctrbench.storage.files import Location, replacing, sha256_of

SHARD_ROWS = 1 << 18
COMPRESSION_LEVEL = 1
"""Level of zstd; higher levels take seconds longer and save little on ids."""
WRITERS = 2
"""Number of threads that write, and the largest number of shards in memory."""
MAX_FILE_STEM = 100


def vocabulary_file(field: str) -> str:
    """Return the path of a field's vocabulary, relative to the dataset's folder."""
    return f"vocabulary/{field}.parquet"


def shard_file(split: Split, index: int) -> str:
    """Return the path of a shard, relative to the dataset's folder."""
    return f"shards/{split}-{index:05d}.parquet"


def write_table(folder: Location, file: str, table: pa.Table) -> ShardInfo:
    """Write one parquet file atomically and return its entry of the manifest."""
    with replacing(folder / file, is_durable=False) as part:
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


def write_domain_table(
    folder: Location, name: str, features: tuple[str, ...], table: pl.DataFrame
) -> DomainSetInfo:
    """Write the domain table of a domain set and return its entry of the manifest."""
    # File names have a maximum length, and a domain set may have any number of features.
    stem = name if len(name) <= MAX_FILE_STEM else hashlib.sha256(name.encode()).hexdigest()[:16]
    info = write_table(folder, f"domains/{stem}.parquet", table.to_arrow())
    return DomainSetInfo(
        features=features,
        num_domains=table.height - 1,
        file=info.file,
        sha256=info.sha256,
        rows_unseen={split: int(table[DomainColumn.ROWS.format(split=split)][0]) for split in Split},
    )


def write_shards(
    folder: Path, columns: Mapping[str, Encoded], rows: Mapping[Split, int]
) -> Iterator[tuple[Split, pa.Table, Future[ShardInfo]]]:
    """Write all rows in shards and yield each shard when a writer receives it.

    `columns` hold the rows of all splits, one split after the other, and `rows` the number of rows per split.
    """
    first_row = 0
    with ThreadPoolExecutor(WRITERS) as pool:
        pending: list[Future[ShardInfo]] = []
        for split, count in rows.items():
            end = first_row + count
            for index, start in enumerate(range(first_row, end, SHARD_ROWS)):
                stop = min(start + SHARD_ROWS, end)
                table = pa.table({name: column.take(start, stop) for name, column in columns.items()})
                # No more shards in memory than there are writers.
                if len(pending) >= WRITERS:
                    pending.pop(0).result()
                pending.append(pool.submit(write_table, folder, shard_file(split, index), table))
                yield split, table, pending[-1]
            first_row = end


class ContentDigest:
    """A sha256 over values, independent of shard boundaries and of the bytes of the files."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {}

    def update(self, table: pa.Table) -> None:
        """Add the rows of a table."""
        for name, column in zip(table.column_names, table.columns, strict=True):
            values = column.combine_chunks()
            if pa.types.is_list(values.type):
                self._add_to_digest(f"{name} lengths", values.value_lengths())
                values = values.flatten()
            self._add_to_digest(f"{name} {values.type}", values)

    def _add_to_digest(self, name: str, values: pa.Array) -> None:
        numbers = np.ascontiguousarray(values.to_numpy())
        little_endian = numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)
        content = little_endian.data.cast("B") if len(little_endian) else b""
        self._columns.setdefault(name, hashlib.sha256()).update(content)

    def hexdigest(self, rows: Mapping[Split, int], fields: Sequence[FieldInfo]) -> str:
        """Return the digest over all added rows, the number of rows per split and the fields."""
        content = {
            "columns": {name: digest.hexdigest() for name, digest in self._columns.items()},
            "fields": [field.model_dump(mode="json") for field in fields],
            "rows": {str(split): count for split, count in rows.items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
