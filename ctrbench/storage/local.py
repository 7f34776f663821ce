"""Storage on this machine or in a folder shared by several machines.

A file is written beside its target and renamed, which is atomic on one file system. A full disk becomes a `DataError`
that names the file and the remedy.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal, cast

from filelock import FileLock, Timeout

from ctrbench.errors import DataError
from ctrbench.storage.leftovers import remove_leftovers_below, remove_leftovers_once, temporary_path
from ctrbench.storage.obstacles import folder_obstacle

Fault = Literal["missing", "damaged"]
MAX_BYTES = 1 << 28
"""Size limit of files that are read at once: records, manifests, cards."""
HASHERS = 2
"""Files hashed at a time."""


class LocalStorage:
    """Storage whose locations are paths; see `ctrbench.storage.files.Storage` for the operations."""

    num_requests = 1

    @contextmanager
    def replacing(self, file: Path, *, is_new: bool, is_durable: bool) -> Iterator[Path]:
        """Yield a hidden path in the file's folder and rename it to `file` at the end."""
        part = temporary_path(file)
        try:
            with disk_full_errors(file, "CTRBENCH_HOME moves the cache"):
                file.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers_once(file.parent)
                with _named_after(file, part):
                    yield part
                if is_durable:
                    _sync(part)
                _rename(part, file, is_new=is_new)
                if is_durable:
                    _sync(file.parent)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def read_bytes(self, file: Path) -> bytes:
        """Return the content of the file; raises `OSError` unless it is a regular file of at most `MAX_BYTES`."""
        with _open_without_waiting(file) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "a named pipe, a folder or a device, not a file", str(file))
            content = stream.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise OSError(errno.EFBIG, f"it is larger than {MAX_BYTES:,} bytes", str(file))
            return content

    @contextmanager
    def local_copy(self, file: Path, sha256: str | None) -> Iterator[Path]:
        """Yield the file itself."""
        if not file.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
        yield file

    def find_files(self, folder: Path, pattern: str) -> list[Path]:
        """Return the sorted matches of a glob pattern."""
        return sorted(folder.glob(pattern))

    def find_faults(self, folder: Path, sha256: Mapping[str, str]) -> Iterator[tuple[str, Fault]]:
        """Yield the files that do not exist or have another sha256."""
        with ThreadPoolExecutor(HASHERS) as pool:
            faults = pool.map(_find_fault, (folder / file for file in sha256), sha256.values())
            yield from (
                (file, fault) for file, fault in zip(sha256, faults, strict=True) if fault is not None
            )

    def create_folder(self, folder: Path) -> None:
        """Create the folder and its parents."""
        folder.mkdir(parents=True, exist_ok=True)

    def folder_obstacle(self, folder: Path) -> str | None:
        """Return why no file can be created in the folder."""
        return folder_obstacle(folder)

    def remove_leftovers(self, folder: Path) -> None:
        """Remove temporary files of processes that no longer run."""
        remove_leftovers_below(folder)

    def free_bytes(self, folder: Path) -> int:
        """Return the free space of the disk of the folder, which need not exist."""
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        return shutil.disk_usage(existing).free

    def link(self, target: Path, folder: Path) -> str:
        """Return the relative path from the folder."""
        return Path(os.path.relpath(target, folder)).as_posix()

    def is_file(self, file: Path) -> bool:
        """Return whether the file exists."""
        return file.is_file()

    def remove_file(self, file: Path) -> None:
        """Remove the file if it exists."""
        file.unlink(missing_ok=True)

    def scratch_parent(self, folder: Path) -> Path:
        """Return the folder itself: renaming works within one file system."""
        return folder

    def move_folder(self, folder: Path, target: Path, *, last: str) -> None:
        """Rename the folder; an old target moves into the scratch folder, which its owner removes."""
        if target.exists():
            target.rename(folder.with_name("old"))
        folder.rename(target)

    def add_folder(self, folder: Path, target: Path) -> None:
        """Rename the folder."""
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)

    def remove_folder(self, folder: Path) -> None:
        """Remove the folder; files that cannot be removed stay."""
        shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def lock(self, folder: Path, on_wait: Callable[[], None]) -> Iterator[bool]:
        """Lock a hidden file beside the folder; no lock on a file system without locks."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        except NotImplementedError:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _open_without_waiting(file: Path) -> BinaryIO:
    """Open a file for reading; a named pipe without a writer would block otherwise."""
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    return cast(BinaryIO, os.fdopen(descriptor, "rb"))


def _sync(path: Path) -> None:
    """Write a file or the entries of a folder to the disk; some file systems cannot, and are left to themselves."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _find_fault(file: Path, sha256: str) -> Fault | None:
    if not file.is_file():
        return "missing"
    return None if sha256_of(file) == sha256 else "damaged"


def _rename(part: Path, file: Path, *, is_new: bool) -> None:
    """Give a finished file its name; a new file is hard-linked, since renaming would replace another writer's."""
    if not is_new:
        part.replace(file)
        return
    try:
        file.hardlink_to(part)
    except OSError:
        # Some shared file systems have no hard links.
        if file.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file)) from None
        part.replace(file)


@contextmanager
def _named_after(file: Path, part: Path) -> Iterator[None]:
    """Name the file in an error of writing, which names nothing or its temporary path, which a user does not know."""
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(part)):
            error.filename = str(file)
        raise


@contextmanager
def disk_full_errors(file: Path, hint: str) -> Iterator[None]:
    """Convert the error of a full disk to a `DataError`; `hint` names the setting that moves the file elsewhere."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            remedy = f"free some space, or use another disk ({hint})"
            raise DataError("no space left on the disk", value=file, remedy=remedy) from None
        raise


def is_disk_full(error: OSError) -> bool:
    """Return whether an error means a full disk or quota.

    Some libraries keep the system's error number in the text only.
    """
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file as a hexadecimal string, read in blocks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
