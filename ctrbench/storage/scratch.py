"""Scratch folders in which new content is built before it is moved into place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctrbench.storage.leftovers import remove_leftovers, temporary_path


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a hidden folder in `parent` that is removed at the end, also after an error.

    Leftovers of killed processes of this machine are removed first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    folder = temporary_path(parent / name)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
