"""The folder of run records, and the cache folder with what is too large to keep in git.

    <results>/<dataset>/<run>.json        the record: kept, shared, merged by copying files together
    <home>/runs/<digest>/                 predictions.parquet, inspection.npz, checkpoint.pt

A finished record is never overwritten; a failed one gives way to the next try. Both folders may be URLs, which several
machines share; of two that bring the same record at once one is told that the other came first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from pydantic import ValidationError

from ctrbench.errors import StoreError
from ctrbench.plugins.inspection import Inspection
from ctrbench.runs.record import SCHEMA_VERSION, RunKey, RunRecord
from ctrbench.storage.files import Location, find_files, is_local, local_copy, read_text, write_text

if TYPE_CHECKING:
    from ctrbench.runs.grid import Run

READERS = 16
"""Requests on their way at a time, where each record costs one."""
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, kw_only=True)
class RunStore:
    """Records under `results`, everything else under `home`."""

    results: Location
    home: Location

    def record_file(self, key: RunKey) -> Location:
        """Where the record of this run stands."""
        return self.results / key.dataset / f"{key.run}.json"

    def folder(self, key: RunKey) -> Location:
        """Where the run keeps predictions and checkpoints."""
        return self.home / "runs" / key.digest[:20]

    def predictions_file(self, key: RunKey) -> Location:
        """Where the predictions of the test split stand."""
        return self.folder(key) / "predictions.parquet"

    def inspection_file(self, key: RunKey) -> Location:
        """Where what the method showed of the trained model stands."""
        return self.folder(key) / "inspection.npz"

    def inspection(self, key: RunKey) -> Inspection | None:
        """Return the method's inspection of the trained model; None where there is none."""
        location = self.inspection_file(key)
        try:
            with local_copy(location) as file, np.load(file) as arrays:
                return Inspection.from_arrays(arrays)
        except FileNotFoundError:
            return None
        except KeyError:
            remedy = "delete the file and run the study again"
            raise StoreError("not an inspection of this version", value=location, remedy=remedy) from None

    def find(self, key: RunKey) -> RunRecord | None:
        """Return the record of this run, finished or failed, if there is one."""
        try:
            return read_record(self.record_file(key))
        except FileNotFoundError:
            return None

    def write(self, record: RunRecord) -> Location:
        """Write a record in one move; raises `StoreError` rather than replace a finished one."""
        file, text = self.record_file(record.key), record.model_dump_json(indent=None) + "\n"
        known = self.find(record.key)
        if known is None:
            try:
                return write_text(file, text, is_new=True)
            except FileExistsError:
                known = self.find(record.key)
                if known == record:
                    # Ours: the answer to a first try was lost on the way.
                    return file
        if known is not None and known.status == "finished":
            raise StoreError("a finished record is never overwritten", value=file, remedy="delete it first")
        return write_text(file, text)

    def unfinished(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs without a finished record; other records are checked to be readable."""
        every = list(runs)
        known = zip(every, self._each(lambda run: self.find(run.key), every), strict=True)
        return [run for run, record in known if record is None or record.status != "finished"]

    def create(self) -> None:
        """Create the folder of the records, so that one that cannot be written fails before any run starts."""
        if is_local(self.results):
            self.results.mkdir(parents=True, exist_ok=True)

    def records(self, dataset: str | None = None) -> Iterator[RunRecord]:
        """Yield every record (of one dataset), in order of file name."""
        yield from self._each(read_record, find_files(self.results, f"{dataset or '*'}/*.json"))

    def _each(self, read: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
        """Read one after another on this machine, several at a time where each waits for an answer."""
        if is_local(self.results):
            yield from map(read, items)
            return
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(read, items)


def read_record(file: Location) -> RunRecord:
    """Read one record; raises `StoreError` for a newer schema or a file that is no record."""
    try:
        content = json.loads(read_text(file))
        version = content.get("schema_version")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise StoreError("not a run record", value=file, remedy="remove the file or restore it") from None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreError(
            f"record of schema {version}, this ctrbench reads up to {SCHEMA_VERSION}",
            value=file,
            remedy="upgrade ctrbench",
        )
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise StoreError("not a run record", value=f"{file}: {where}: {problem['msg']}") from None
