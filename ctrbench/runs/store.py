"""Storage of runs: the folder of records, and the home folder with files that are too large for git.

    <results>/<dataset>/<run>.json        the record; folders of records are merged by copying files
    <home>/runs/<digest>/                 predictions.parquet, inspection.npz, checkpoint.pt

A finished record is never overwritten; a failed one is replaced by the next attempt. Both folders may be URLs that
several machines share: if two write the same record at once, the second raises an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from ctrbench.data.home import home_folder
from ctrbench.errors import StoreError, first_problem
from ctrbench.plugins.inspection import Inspection
from ctrbench.runs.record import SCHEMA_VERSION, RunKey, RunRecord
from ctrbench.storage.files import (
    Location,
    create_folder,
    find_files,
    local_copy,
    parse_location,
    read_each,
    read_text,
    sha256_of,
    write_text,
)

if TYPE_CHECKING:
    from ctrbench.runs.grid import Run


@dataclass(frozen=True, kw_only=True)
class RunStore:
    """Records under `results`, everything else under `home`."""

    results: Location
    home: Location

    def record_file(self, key: RunKey) -> Location:
        """Return the location of the run's record."""
        return self.results / key.dataset / f"{key.run}.json"

    def folder(self, key: RunKey) -> Location:
        """Return the folder of the run's predictions and checkpoints."""
        return self.home / "runs" / key.digest[:20]

    def predictions_file(self, key: RunKey) -> Location:
        """Return the location of the predictions of the test split."""
        return self.folder(key) / "predictions.parquet"

    def checkpoint_file(self, key: RunKey) -> Location:
        """Return the location of the state of the run's training."""
        return self.folder(key) / "checkpoint.pt"

    def inspection_file(self, key: RunKey) -> Location:
        """Return the location of the arrays that the method returned for inspection."""
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

    @contextmanager
    def predictions(self, record: RunRecord) -> Iterator[Path | None]:
        """Yield the local path of a run's predictions; None where they are missing or do not match the record."""
        with ExitStack() as stack:
            sha256 = record.result.predictions_sha256 if record.result else None
            try:
                path = stack.enter_context(local_copy(self.predictions_file(record.key), sha256))
            except FileNotFoundError:
                path = None
            yield path if path is not None and sha256_of(path) == sha256 else None

    def find(self, key: RunKey) -> RunRecord | None:
        """Return the run's record, finished or failed; None if the run has no record."""
        try:
            return read_record(self.record_file(key))
        except FileNotFoundError:
            return None

    def write(self, record: RunRecord) -> Location:
        """Write a record atomically; raises `StoreError` where a finished one exists."""
        file, text = self.record_file(record.key), record.model_dump_json(indent=None) + "\n"
        existing = self.find(record.key)
        if existing is None:
            try:
                return write_text(file, text, is_new=True)
            except FileExistsError:
                existing = self.find(record.key)
                if existing == record:
                    # Written by an earlier attempt of this call whose response was lost.
                    return file
        if existing is not None and existing.status == "finished":
            raise StoreError("a finished record is never overwritten", value=file, remedy="delete it first")
        return write_text(file, text)

    def unfinished(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs without a finished record; raises `StoreError` for unreadable records."""
        all_runs = list(runs)
        records = read_each(self.results, lambda run: self.find(run.key), all_runs)
        pairs = zip(all_runs, records, strict=True)
        return [run for run, record in pairs if record is None or record.status != "finished"]

    def create(self) -> None:
        """Create the folder of the records; raises an error before any run starts if it cannot be written."""
        create_folder(self.results)

    def records(self, dataset: str | None = None) -> Iterator[RunRecord]:
        """Yield every record (default: of all datasets), sorted by file name."""
        yield from read_each(self.results, read_record, find_files(self.results, f"{dataset or '*'}/*.json"))


def open_store(results: str) -> RunStore:
    """Return the store with records at a location (a path or URL), and all other files of runs in the home folder."""
    return RunStore(results=parse_location(results), home=home_folder())


def read_record(file: Location) -> RunRecord:
    """Read one record; raises `StoreError` for a newer schema and for a file that is not a record."""
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
        raise StoreError("not a run record", value=f"{file}: {first_problem(error)}") from None
