"""Sizes and modification times of raw files, stored with a prepared dataset.

They show that files are unchanged without reading them again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctrbench.storage.files import Location, read_text, write_text

INPUTS = "inputs.json"
SETTLED_NS = 2_000_000_000
"""A file modified more recently than this may change again within the resolution of its modification time."""


@dataclass(frozen=True)
class Inputs:
    """Sizes and modification times of raw files, and the time at which they were read."""

    at: int
    """Nanoseconds since 1970."""
    files: dict[str, list[int]]
    """Size in bytes and modification time in nanoseconds, by absolute path."""

    @property
    def are_settled(self) -> bool:
        """Whether equal times prove that the files are unchanged."""
        return all(modified <= self.at - SETTLED_NS for _, modified in self.files.values())


def inputs_of(paths: Sequence[Path]) -> Inputs:
    """Return the inputs of files and of the files directly in folders."""
    now = time.time_ns()
    # Subfolders are left out: readers do not read them, and the home folder may be one of them.
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    stats = {str(file.resolve()): file.stat() for file in files if file.is_file()}
    return Inputs(now, {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()})


def read_inputs(folder: Location) -> Inputs | None:
    """Return the inputs stored in the folder of a prepared dataset; None if they are missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(read_text(folder / INPUTS))
        return Inputs(**content)
    except (OSError, ValueError, TypeError):
        return None


def write_inputs(folder: Location, inputs: Inputs) -> None:
    """Store inputs in the folder of a prepared dataset."""
    write_text(folder / INPUTS, json.dumps({"at": inputs.at, "files": inputs.files}))
