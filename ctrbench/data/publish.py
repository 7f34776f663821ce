"""Replacement of a prepared dataset: new files are written beside the old ones, then the manifest is switched.

The manifest is replaced atomically, so there is no moment without a dataset: a reader sees the old one or the new one.
The old files are removed afterwards.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path

from ctrbench.data.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from ctrbench.data.prepared import Prepared
from ctrbench.errors import DataError
from ctrbench.storage.files import (
    Location,
    add_folder,
    find_files,
    remove_file,
    remove_folder,
)

PREFIX = "files-"
WAITING = "wait for another process"
"""Phase in which another process prepares the same dataset."""


def new_files_folder() -> str:
    """Return a name for the folder of the files of a newly prepared dataset."""
    return f"{PREFIX}{secrets.token_hex(4)}"


def resumable_files_folder(root: Location) -> str:
    """Return a name that stays the same until the manifest is switched, so that interrupted work can be resumed."""
    with suppress(DataError):
        return f"{PREFIX}2" if read_manifest(root).files == f"{PREFIX}1" else f"{PREFIX}1"
    return f"{PREFIX}1"


def publish(manifest: Manifest, folder: Path, root: Location, *, is_locked: bool) -> Prepared:
    """Move the complete files in `folder` below `root`, switch to their manifest and return the dataset."""
    add_folder(folder, root / manifest.files)
    try:
        switch(root, manifest, is_locked=is_locked)
    except OSError:
        if not _is_current(root, manifest):
            remove_folder(root / manifest.files)
        raise
    return Prepared(root, manifest)


def _is_current(root: Location, manifest: Manifest) -> bool:
    with suppress(DataError):
        return read_manifest(root).files == manifest.files
    return False


def switch(root: Location, manifest: Manifest, *, is_locked: bool) -> None:
    """Replace the manifest in `root` and remove the files of earlier ones.

    Under the lock of `root`, files of interrupted preparations are removed as well; without it, another machine may be
    writing them.
    """
    old = _unused_after(root, manifest, is_locked=is_locked)
    write_manifest(root, manifest)
    for location in old:
        (remove_file if location.is_file() else remove_folder)(location)


def _unused_after(root: Location, manifest: Manifest, *, is_locked: bool) -> list[Location]:
    """Return the locations below `root` that no reader of `manifest` needs."""
    if not is_locked:
        with suppress(DataError):
            return [root / name for name in {read_manifest(root).files} - {manifest.files}]
        return []
    return [path for path in find_files(root, "*") if path.name not in (MANIFEST, manifest.files)]
