"""Names of temporary files and folders, and removal of those that killed processes left.

A name holds the machine and the process that writes it, since a folder may be shared by several machines. The next
command that writes to the folder removes the files of processes that no longer run.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

NAME_BYTES = 60
"""Bytes of the final name that a temporary name repeats; file systems allow 255 in all."""


def temporary_path(file: Path) -> Path:
    """Return a hidden path beside `file` for its new content; every call returns another one."""
    name = file.name.encode("utf-8", "surrogateescape")[:NAME_BYTES].decode("utf-8", "ignore")
    return file.with_name(f".{name}.{secrets.token_hex(4)}.{_machine()}.{os.getpid()}.part")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of processes of this machine that no longer run."""
    _remove_matches(folder, f".*.{_machine()}.*.part")


def remove_leftovers_below(folder: Path) -> None:
    """Remove leftovers in the folders of a folder."""
    _remove_matches(folder, f"*/.*.{_machine()}.*.part")


def _remove_matches(folder: Path, pattern: str) -> None:
    with suppress(OSError):
        for leftover in folder.glob(pattern):
            if not _is_running(leftover.name.split(".")[-2]):
                _remove(leftover)


@lru_cache(maxsize=1024)
def remove_leftovers_once(folder: Path) -> None:
    """Remove leftovers the first time that this process writes to a folder."""
    remove_leftovers(folder)


def _machine() -> str:
    return platform.node().replace(".", "-").replace("/", "-")[:60]


def _remove(leftover: Path) -> None:
    if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover, ignore_errors=True)
        return
    # Another process may remove it at the same time.
    with suppress(OSError):
        leftover.unlink()


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):
        return True
    return True
