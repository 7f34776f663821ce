"""Storage of runs: the folder of records, and the home folder with files that are too large for git.

    <results>/<dataset>/<run>.json        the record; folders of records are merged by copying files
    <results>/<dataset>/trials/<run>.json the record of a trial of tuning
    <home>/runs/<digest>/                 predictions.parquet, inspection.npz, checkpoint.pt

A finished record is never overwritten; a failed one is replaced by the next attempt. Both folders may be URLs that
several machines share: if two write the same record at once, the second raises an error. Only at URLs, which have no
locks, may the record of a failed attempt replace one that another machine finishes at the same moment.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from ctrbench.data.home import home_folder
from ctrbench.errors import StoreError
from ctrbench.plugins.inspection import Inspection
from ctrbench.problems import first_problem
from ctrbench.runs.record import SCHEMA_VERSION, RunKey, RunRecord
from ctrbench.runs.record_rules import find_fault
from ctrbench.storage.checksummed import with_checksum, without_checksum
from ctrbench.storage.documents import read_json
from ctrbench.storage.files import (
    Location,
    create_folder,
    find_files,
    local_copy,
    lock,
    parse_location,
    read_each,
    remove_file,
    remove_leftovers,
    sha256_of,
    write_text,
)

REMOVE = "remove the file or restore it; without it, the run is repeated"
CHECKSUM_VERSION = 3
"""First schema whose files hold the sha256 of their content."""
TRIALS = "trials"
"""Folder of the records of trials, among those of a dataset."""
RUN_NAME = re.compile(r".+-s\d+-[0-9a-f]{12}")
"""Pattern of the name that the record of a run has."""

if TYPE_CHECKING:
    from ctrbench.runs.grid import Run


@dataclass(frozen=True, kw_only=True)
class RunStore:
    """Records under `results`, everything else under `home`."""

    results: Location
    home: Location

    def record_file(self, key: RunKey) -> Location:
        """Return the location of the run's record."""
        folder = self.results / key.dataset
        return (folder / TRIALS if key.is_trial else folder) / f"{key.run}.json"

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
        file = self.record_file(key)
        try:
            record = read_record(file)
        except FileNotFoundError:
            return None
        if record.digest != key.digest:
            raise _of_another_run(file, record)
        return record

    def write(self, record: RunRecord) -> Location:
        """Write a record atomically; raises `StoreError` where a finished one exists."""
        file, text = self.record_file(record.key), _file_text(record)
        existing = self.find(record.key)
        if existing is None:
            try:
                return write_text(file, text, is_new=True)
            except FileExistsError:
                existing = self.find(record.key)
                if existing == record:
                    # Written by an earlier attempt of this call whose response was lost.
                    return file
        return self._replace_failed(record.key, text)

    def _replace_failed(self, key: RunKey, text: str) -> Location:
        """Replace the record of a failed attempt, unless another process has finished the run meanwhile."""
        file = self.record_file(key)
        with lock(self.folder(key) / "record", lambda: None):
            existing = self.find(key)
            if existing is not None and existing.status == "finished":
                raise StoreError(
                    "a finished record must not be overwritten", value=file, remedy="delete it first"
                )
            return write_text(file, text)

    def unfinished(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs without a finished record; raises `StoreError` for unreadable records."""
        all_runs = list(runs)
        records = read_each(self.results, lambda run: self.find(run.key), all_runs)
        pairs = zip(all_runs, records, strict=True)
        return [run for run, record in pairs if record is None or record.status != "finished"]

    def remove_checkpoints(self, finished: Iterable[RunKey]) -> None:
        """Remove checkpoints of finished runs; a process that is killed after it wrote a record leaves one.

        One that cannot be removed stays: it is not read, and there may be nothing else to do in the home folder.
        """
        checkpoints = set(find_files(self.home / "runs", "*/checkpoint.pt"))
        for key in finished:
            if self.checkpoint_file(key) in checkpoints:
                with suppress(OSError):
                    remove_file(self.checkpoint_file(key))

    def create(self) -> None:
        """Create the folder of the records; raises an error before any run starts if it cannot be written."""
        create_folder(self.results)

    def remove_leftovers(self) -> None:
        """Remove temporary files of processes that were killed."""
        remove_leftovers(self.results)
        remove_leftovers(self.home / "runs")

    def records(self, dataset: str | None = None) -> Iterator[RunRecord]:
        """Yield the record of every run (default: of all datasets), sorted by file name.

        Several files may hold the record of one run, such as `record (1).json` after copying folders together: the
        finished one counts, and of several the one with the run's own name. Raises `StoreError` for a damaged record
        and for one that has the name of another run.
        """
        yield from self._read_all(dataset, "*.json")

    def trials(self, dataset: str) -> Iterator[RunRecord]:
        """Yield the record of every trial of tuning on a dataset; see `records`."""
        yield from self._read_all(dataset, f"{TRIALS}/*.json")

    def _read_all(self, dataset: str | None, pattern: str) -> Iterator[RunRecord]:
        if dataset is not None and not _is_folder_name(dataset):
            return
        folder = "*" if dataset is None else glob.escape(dataset)
        files = find_files(self.results, f"{folder}/{pattern}")
        yield from _without_copies(files, read_each(self.results, _read_listed, files))


def _is_folder_name(name: str) -> bool:
    return Path(name).name == name and name not in ("", "..") and len(name.encode(errors="replace")) <= 255


def open_store(results: str) -> RunStore:
    """Return the store with records at a location (a path or URL), and all other files of runs in the home folder."""
    return RunStore(results=parse_location(results), home=home_folder())


def read_record(file: Location) -> RunRecord:
    """Read one record.

    Raises `FileNotFoundError` if there is no such file, and `StoreError` for a newer schema and for a file that is not
    a record or breaks a rule of records.
    """
    try:
        content = read_json(file)
        version = content["schema_version"]
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = "correct its permissions, or remove it from the folder of results"
        raise StoreError(
            "a record must be a readable file", value=f"{file}: {error.strerror}", remedy=remedy
        ) from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise StoreError("not a run record", value=file, remedy=REMOVE) from None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreError(
            f"record of schema {version}, this ctrbench reads up to {SCHEMA_VERSION}",
            value=file,
            remedy="upgrade ctrbench",
        )
    try:
        record = RunRecord.model_validate(_checked(content))
    except ValidationError as error:
        raise StoreError("not a run record", value=f"{file}: {first_problem(error)}", remedy=REMOVE) from None
    except ValueError as error:
        raise StoreError("damaged run record", value=f"{file}: {error}", remedy=REMOVE) from None
    fault = find_fault(record)
    if fault is not None:
        raise StoreError("damaged run record", value=f"{file}: {fault}", remedy=REMOVE)
    return record


def _file_text(record: RunRecord) -> str:
    content = with_checksum(record.model_dump(mode="json"))
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"


def _read_listed(file: Location) -> RunRecord:
    """Read a record that a listing showed, so a missing file is a broken link."""
    try:
        return read_record(file)
    except FileNotFoundError:
        raise StoreError("not a run record", value=f"{file}: broken link", remedy=REMOVE) from None


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a record's file without its sha256; raises `ValueError` if that does not match."""
    version = content["schema_version"]
    if type(version) is not int or version < 1:
        raise ValueError(f"schema_version must be a whole number from 1, not {version!r}")
    return without_checksum(content) if version >= CHECKSUM_VERSION else content


def _without_copies(files: Iterable[Location], records: Iterable[RunRecord]) -> Iterator[RunRecord]:
    """Yield one record per run; see `RunStore.records`."""
    chosen: dict[str, tuple[tuple[bool, bool], RunRecord]] = {}
    for file, record in zip(files, records, strict=True):
        if RUN_NAME.fullmatch(file.stem) and file.stem != record.run:
            raise _of_another_run(file, record)
        rank = (record.status == "finished", file.stem == record.run)
        if record.digest not in chosen or rank > chosen[record.digest][0]:
            chosen[record.digest] = (rank, record)
    yield from (record for _, record in chosen.values())


def _of_another_run(file: Location, record: RunRecord) -> StoreError:
    remedy = f"rename the file to {record.run}.json, or remove it"
    return StoreError("the record is of another run than its file name says", value=file, remedy=remedy)
