"""Reasons why an output cannot be written, found before any work is done.

A check leaves nothing behind: it finds the nearest existing folder of the output and opens an unnamed file in it.
"""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path


def folder_obstacle(folder: Path) -> str | None:
    """Return why no file can be created in a folder, which need not exist; None if one can."""
    parent, mode, obstacle = _nearest_existing(folder)
    if obstacle is not None:
        return obstacle
    if not stat.S_ISDIR(mode):
        return f"{parent} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=parent):
            return None
    except OSError as error:
        return f"no file can be created in {parent}: {error.strerror or error}"


def file_obstacle(file: Path) -> str | None:
    """Return why a file can neither be created nor replaced; None if it can."""
    existing, mode, obstacle = _nearest_existing(file)
    if obstacle is not None:
        return obstacle
    if existing == file and stat.S_ISDIR(mode):
        return f"{file} is a folder"
    if existing == file and not stat.S_ISREG(mode):
        return f"{file} is not a regular file"
    return folder_obstacle(file.parent)


def _nearest_existing(path: Path) -> tuple[Path, int, str | None]:
    """Return the path or its nearest parent that exists, with its mode, or why there is none."""
    for candidate in (path, *path.parents):
        try:
            return candidate, candidate.stat().st_mode, None
        except (FileNotFoundError, NotADirectoryError):
            if candidate.is_symlink():
                return candidate, 0, f"{candidate} is a link to a file that does not exist"
        except (OSError, ValueError) as error:
            return candidate, 0, str(getattr(error, "strerror", None) or error)
    return path, 0, "the working directory does not exist"
