"""Production-scale data as parquet files, shard by shard, by as many workers as one likes (spec: production-9.3).

A folder holds `production.json`, written first: the spec and its constants, which every worker reads. Each shard of
2^20 rows is a file of its own with its sha256 beside it; the sha256 is written last, so a shard that has one is whole,
and one whose bytes still agree is not made again. Probabilities, prices and numbers are stored in 32 bits.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ctrbench.errors import DataError, SettingError
from ctrbench.storage.files import replacing, write_text
from ctrbench.synthetic.production.calibration import Constants, calibrate
from ctrbench.synthetic.production.generator import Production
from ctrbench.synthetic.production.spec import ProductionSpec

T = TypeVar("T")
R = TypeVar("R")
RECIPE = "production.json"
PART_ROWS = 1 << 17
"""Rows in memory at a time, and of a row group."""
COMPRESSION_LEVEL = 1
BYTES_PER_ROW, BYTES_PER_SLOT = 60, 3
"""About what a row takes on disk, and a place of its sequences, to see beforehand whether there is room."""
PRECISION = 1e-9
"""To which probabilities and prices are rounded before they are hashed."""

Report = Callable[[int, int], None]
"""Called with the rows that are there, and the rows in all."""


class Recipe(BaseModel):
    """What settles every row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: ProductionSpec
    constants: Constants


@dataclass(frozen=True)
class Job:
    """One shard to be made in a folder that has a recipe."""

    folder: Path
    number: int


@dataclass(frozen=True)
class Made:
    """One shard that is there; `is_new` unless it was there before."""

    number: int
    rows: int
    sha256: str
    is_new: bool


Map = Callable[[Callable[[Job], Made], Sequence[Job]], Iterator[Made]]
"""Calls the function for every job and yields what it returns, in any order."""


def make_production(
    spec: ProductionSpec,
    out: Path,
    *,
    workers: int = 1,
    report: Report | None = None,
    map: Map | None = None,
) -> tuple[Made, ...]:
    """Make all shards of a dataset in the folder `out`, or those that are missing; returns them by number.

    Interrupted, it leaves whole shards only, and goes on from there when it is called again. `map` may spread the
    shards over other machines that see the same folder; the default are `workers` processes of this one.
    """
    write_recipe(spec, out)
    jobs = [Job(out, number) for number in range(spec.num_shards)]
    spread = map or in_processes(workers)
    found: dict[int, Made] = {}
    done = 0
    for made in spread(make_shard, jobs):
        found[made.number] = made
        done += made.rows
        if report is not None:
            report(done, spec.rows)
    return tuple(found[number] for number in sorted(found))


def write_recipe(spec: ProductionSpec, out: Path) -> Recipe:
    """Return the folder's recipe, calibrated and written if there is none; a folder holds one dataset."""
    file = out / RECIPE
    if file.exists():
        recipe = read_recipe(out)
        if recipe.spec != spec:
            remedy = "choose another folder, or remove it"
            raise SettingError("a folder holds one dataset", value=f"{file} is of another", remedy=remedy)
        return recipe
    _check_room(spec, out)
    recipe = Recipe(spec=spec, constants=calibrate(spec))
    write_text(file, recipe.model_dump_json(indent=1) + "\n")
    return recipe


def read_recipe(folder: Path) -> Recipe:
    """Read spec and constants of a folder."""
    file = folder / RECIPE
    try:
        return Recipe.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError("no Production-scale data here", value=file) from None
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError):
        remedy = "remove the folder and make the data again"
        raise DataError(
            "the recipe of the Production-scale data is damaged", value=file, remedy=remedy
        ) from None


def _check_room(spec: ProductionSpec, out: Path) -> None:
    needed = spec.rows * (BYTES_PER_ROW + spec.sequences * 2 * BYTES_PER_SLOT * spec.sequence_length)
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if shutil.disk_usage(there).free < needed:
        remedy = f"free disk space (about {needed / 1e9:.1f} GB), or ask for fewer rows"
        raise DataError("no space left on the disk", value=out, remedy=remedy)


# --- shards --------------------------------------------------------------------------------------------------------


def shard_file(number: int) -> str:
    """Return the name of a shard's file."""
    return f"shard-{number:05d}.parquet"


def make_shard(job: Job) -> Made:
    """Make one shard, unless it is there and whole."""
    recipe = read_recipe(job.folder)
    production = Production(recipe.spec, recipe.constants)
    start, stop = production.shard(job.number)
    file = job.folder / shard_file(job.number)
    known = _whole(file)
    if known is not None:
        return Made(job.number, stop - start, known, is_new=False)
    for left in job.folder.glob(f".{file.name}.*.part"):  # of a worker that was killed
        left.unlink(missing_ok=True)
    with replacing(file) as part:
        _write(production, start, stop, part)
        sha256 = _sha256(part)
    write_text(_digest_file(file), f"{sha256}  {file.name}\n")
    return Made(job.number, stop - start, sha256, is_new=True)


def _write(production: Production, start: int, stop: int, file: Path) -> None:
    with pq.ParquetWriter(
        file,
        as_table(production.rows(start, start)).schema,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=False,
        write_statistics=False,
    ) as writer:
        for begin in range(start, stop, PART_ROWS):
            writer.write_table(as_table(production.rows(begin, min(begin + PART_ROWS, stop))))


def as_table(columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Return rows as a table: sequences as lists of what there is, numbers in 32 bits."""
    return pa.table({name: _as_array(values) for name, values in columns.items()})


def _as_array(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 2:
        is_there = values > 0
        ends = np.concatenate([[0], np.cumsum(is_there.sum(axis=1))]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), pa.array(values[is_there]))
    return pa.array(values.astype(np.float32) if values.dtype == np.float64 else values)


def _digest_file(file: Path) -> Path:
    return file.with_suffix(".sha256")


def _whole(file: Path) -> str | None:
    """Return a shard's sha256 if it has one and its bytes agree."""
    with suppress(FileNotFoundError, IndexError):
        known = _digest_file(file).read_text(encoding="utf-8").split()[0]
        if _sha256(file) == known:
            return known
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as bytes_of:
        return hashlib.file_digest(bytes_of, "sha256").hexdigest()


def content_digest(columns: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 of rows' values: integers as they are, floats to 1e-9, which no machine's last digit moves."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        values = columns[name]
        if values.dtype.kind == "f":
            values = np.rint(values.astype(np.float64) / PRECISION).astype(np.int64)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


# --- workers -------------------------------------------------------------------------------------------------------


def in_processes(workers: int) -> Callable[[Callable[[T], R], Sequence[T]], Iterator[R]]:
    """Return a map over processes of this machine, results in any order; with one worker, over none.

    An interrupt waits for the current items and drops the others.
    """

    def spread(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        if workers == 1 or len(items) == 1:
            yield from map(function, items)
            return
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            min(workers, len(items)), mp_context=context, initializer=_leave_interrupts
        )
        try:
            for future in as_completed([pool.submit(function, item) for item in items]):
                yield future.result()
        except BrokenProcessPool:
            remedy = "the same command goes on; fewer --jobs take less memory"
            raise DataError("a process that generates rows died", remedy=remedy) from None
        finally:
            pool.shutdown(cancel_futures=True)

    return spread


def _leave_interrupts() -> None:
    """Leave Ctrl-C to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
