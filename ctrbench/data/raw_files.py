"""Sizes and modification times of raw files, stored with a prepared dataset.

They show that files are unchanged without reading them again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ctrbench.readers.text_files import path_exists
from ctrbench.storage.documents import read_json
from ctrbench.storage.files import Location, write_text

STATS = "inputs.json"
SETTLED_NS = 2_000_000_000
"""A file modified more recently than this may change again within the resolution of its modification time."""


@dataclass(frozen=True)
class RawFileStats:
    """Sizes and modification times of raw files, and the time at which they were read."""

    at: int
    """Nanoseconds since 1970."""
    files: dict[str, list[int]]
    """Size in bytes and modification time in nanoseconds, by absolute path."""

    @property
    def are_settled(self) -> bool:
        """Whether equal times prove that the files are unchanged."""
        return all(modified <= self.at - SETTLED_NS for _, modified in self.files.values())


def stat_raw_files(paths: Sequence[Path]) -> RawFileStats:
    """Return the sizes and modification times of files and of the files directly in folders."""
    now = time.time_ns()
    # Subfolders are left out: readers do not read them, and the home folder may be one of them.
    existing = [path for path in paths if path_exists(path)]
    files = [file for path in existing for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    stats = {str(file.resolve()): file.stat() for file in files if file.is_file()}
    return RawFileStats(now, {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()})


def read_stats(folder: Location) -> RawFileStats | None:
    """Return the sizes and times stored in the folder of a prepared dataset; None if they are missing or damaged."""
    try:
        content = read_json(folder / STATS)
        files = {str(path): [int(size), int(time)] for path, (size, time) in content["files"].items()}
        return RawFileStats(int(content["at"]), files)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


def write_stats(folder: Location, stats: RawFileStats) -> None:
    """Store sizes and times in the folder of a prepared dataset."""
    # Without them, the raw files are read again; a folder of that name is no reason to fail.
    with suppress(IsADirectoryError):
        write_text(folder / STATS, json.dumps({"at": stats.at, "files": stats.files}))
