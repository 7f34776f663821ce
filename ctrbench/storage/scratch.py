"""Scratch folders in which new content is built before it is moved into place."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a hidden folder in `parent` that is removed at the end, also after an error.

    Leftovers of killed processes of this machine are removed first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    # Process ids are not unique in a folder shared by several machines.
    machine = platform.node().replace(".", "-")
    for leftover in parent.glob(f".*.{machine}.*.part"):
        if not _is_running(leftover.name.split(".")[-2]):
            shutil.rmtree(leftover, ignore_errors=True)
    folder = parent / f".{name}.{machine}.{os.getpid()}.part"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        return True
    return True
