"""The folder of run records, and the cache folder with what is too large to keep in git.

    <results>/<dataset>/<run>.json        the record: kept, shared, merged by copying files together
    <home>/runs/<digest>/                 predictions.parquet, inspection.npz, checkpoint.pt

A finished record is never overwritten; a failed one gives way to the next try.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from ctrbench.errors import StoreError
from ctrbench.files import write_text
from ctrbench.runs.record import SCHEMA_VERSION, RunKey, RunRecord

if TYPE_CHECKING:
    from ctrbench.runs.grid import Run


@dataclass(frozen=True, kw_only=True)
class RunStore:
    """Records under `results`, everything else under `home`."""

    results: Path
    home: Path

    def record_file(self, key: RunKey) -> Path:
        """Where the record of this run stands."""
        return self.results / key.dataset / f"{key.run}.json"

    def folder(self, key: RunKey) -> Path:
        """Where the run keeps predictions and checkpoints."""
        return self.home / "runs" / key.digest[:20]

    def predictions_file(self, key: RunKey) -> Path:
        """Where the predictions of the test split stand."""
        return self.folder(key) / "predictions.parquet"

    def inspection_file(self, key: RunKey) -> Path:
        """Where what the method showed of the trained model stands."""
        return self.folder(key) / "inspection.npz"

    def inspection(self, key: RunKey) -> dict[str, np.ndarray]:
        """Return what the method showed of the trained model, by name; empty where it showed nothing."""
        file = self.inspection_file(key)
        if not file.exists():
            return {}
        with np.load(file) as arrays:
            return dict(arrays)

    def find(self, key: RunKey) -> RunRecord | None:
        """Return the record of this run, finished or failed, if there is one."""
        file = self.record_file(key)
        return read_record(file) if file.exists() else None

    def write(self, record: RunRecord) -> Path:
        """Write a record in one move; raises `StoreError` rather than replace a finished one."""
        file = self.record_file(record.key)
        known = self.find(record.key)
        if known is not None and known.status == "finished":
            raise StoreError("a finished record is never overwritten", value=file, remedy="delete it first")
        return write_text(file, record.model_dump_json(indent=None) + "\n")

    def unfinished(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs without a finished record; other records are checked to be readable."""
        known = ((run, self.find(run.key)) for run in runs)
        return [run for run, record in known if record is None or record.status != "finished"]

    def records(self, dataset: str | None = None) -> Iterator[RunRecord]:
        """Yield every record (of one dataset), in order of file name."""
        pattern = f"{dataset or '*'}/*.json"
        for file in sorted(self.results.glob(pattern)):
            yield read_record(file)


def read_record(file: Path) -> RunRecord:
    """Read one record; raises `StoreError` for a newer schema or a file that is no record."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
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
