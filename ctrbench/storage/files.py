"""Files on this machine, in a shared folder or at a URL, through one set of functions.

A `Location` is a path of this machine or a URL. `storage_of` is the only code that tells the two apart: everything
else works with either `Storage`. A file is written under a temporary name and appears when it is complete, so a
failure leaves the old file and nothing half written. Libraries that read files get a local path from `local_copy`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast

from ctrbench.errors import SettingError
from ctrbench.storage.local import Fault, LocalStorage, is_disk_full, sha256_of

if TYPE_CHECKING:
    from upath import UPath

__all__ = [
    "AnyLocation",
    "Fault",
    "Location",
    "Storage",
    "add_folder",
    "create_folder",
    "find_faults",
    "find_files",
    "folder_obstacle",
    "free_bytes",
    "is_disk_full",
    "is_file",
    "is_folder",
    "link",
    "local_copy",
    "lock",
    "move_folder",
    "parse_location",
    "read_each",
    "read_text",
    "remove_file",
    "remove_folder",
    "remove_leftovers",
    "replacing",
    "scratch_parent",
    "sha256_of",
    "storage_of",
    "write_files",
    "write_text",
]

Location: TypeAlias = "Path | UPath"
"""A file or folder on this machine or at a URL. Joining, `name`, `parent` and `suffix` work for both."""
AnyLocation = TypeVar("AnyLocation", bound="Path | UPath")
T = TypeVar("T")
U = TypeVar("U")


class Storage(Protocol[AnyLocation]):
    """Operations that differ between this machine and remote storage."""

    @property
    def num_requests(self) -> int:
        """Number of files that are best read at a time."""

    def replacing(self, file: AnyLocation, *, is_new: bool, is_durable: bool) -> AbstractContextManager[Path]:
        """Yield a temporary local path that becomes `file` when the block ends without an error."""

    def read_bytes(self, file: AnyLocation) -> bytes:
        """Return the content of a file; raises `FileNotFoundError` if it does not exist."""

    def local_copy(self, file: AnyLocation, sha256: str | None) -> AbstractContextManager[Path]:
        """Yield a local path to read the file from; raises `FileNotFoundError` if it does not exist."""

    def find_files(self, folder: AnyLocation, pattern: str) -> list[AnyLocation]:
        """Return the sorted locations below a folder that match a glob pattern."""

    def find_faults(self, folder: AnyLocation, sha256: Mapping[str, str]) -> Iterator[tuple[str, Fault]]:
        """Yield the files of a folder that are missing or whose sha256 differs, in the order of `sha256`."""

    def create_folder(self, folder: AnyLocation) -> None:
        """Create a folder, if the storage has folders without files."""

    def folder_obstacle(self, folder: AnyLocation) -> str | None:
        """Return why no file can be created in a folder, which need not exist; None if one can."""

    def remove_leftovers(self, folder: AnyLocation) -> None:
        """Remove temporary files that killed processes left in the folders of a folder."""

    def free_bytes(self, folder: AnyLocation) -> int | None:
        """Return the free space for new files of a folder, in bytes; None if it is not limited."""

    def link(self, target: AnyLocation, folder: Path) -> str:
        """Return the address of a location in a document of the local folder `folder`."""

    def is_file(self, file: AnyLocation) -> bool:
        """Return whether the file exists."""

    def remove_file(self, file: AnyLocation) -> None:
        """Remove a file if it exists."""

    def scratch_parent(self, folder: AnyLocation) -> Path:
        """Return the local folder in which the new content of `folder` is built."""

    def move_folder(self, folder: Path, target: AnyLocation, *, last: str) -> None:
        """Move a finished local folder to `target`, replacing what is there."""

    def add_folder(self, folder: Path, target: AnyLocation) -> None:
        """Move a finished local folder to `target`, which does not exist."""

    def remove_folder(self, folder: AnyLocation) -> None:
        """Remove a folder and all files below it, as far as possible."""

    def lock(self, folder: AnyLocation, on_wait: Callable[[], None]) -> AbstractContextManager[bool]:
        """Hold the lock of a folder, which need not exist; yields whether the storage has locks."""


def storage_of(location: AnyLocation) -> Storage[AnyLocation]:
    """Return the storage that holds a location."""
    if isinstance(location, Path):
        return cast("Storage[AnyLocation]", LocalStorage())
    from ctrbench.storage.cloud import CloudStorage

    return cast("Storage[AnyLocation]", CloudStorage())


def parse_location(text: str | Path) -> Location:
    """Return the location that a user named, as an absolute path or a connected URL.

    Raises `SettingError` for a malformed URL and `StoreError` for storage that does not answer.
    """
    if isinstance(text, Path) or "://" not in text:
        try:
            return Path(text).expanduser().absolute()
        except RuntimeError:
            remedy = "write out the path of the folder"
            raise SettingError(
                "no such user, or a user without a home folder", value=text, remedy=remedy
            ) from None
    if text.startswith("file://"):
        path = Path(text.removeprefix("file://"))
        if not path.is_absolute():
            rule = "a file URL must hold an absolute path"
            raise SettingError(rule, value=text, remedy="write file:///folder, or the path itself")
        return path
    from ctrbench.storage import cloud

    return cloud.connect(text)


def replacing(
    file: Location, *, is_new: bool = False, is_durable: bool = True
) -> AbstractContextManager[Path]:
    """Yield a temporary path to write to; it becomes `file` when the block ends without an error.

    The parent folder is created. With `is_new`, raises `FileExistsError` at the end if the file exists, also if
    another writer came first. A durable file is on the disk before it gets its name, so a power cut does not leave a
    part of it; that takes time, and files whose sha256 is checked on reading do not need it.
    """
    return storage_of(file).replacing(file, is_new=is_new, is_durable=is_durable)


def write_text(file: AnyLocation, text: str, *, is_new: bool = False) -> AnyLocation:
    """Write a UTF-8 text file atomically, line ends unchanged; see `replacing`."""
    with replacing(file, is_new=is_new) as part:
        part.write_text(text, encoding="utf-8", newline="")
    return file


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write local files together: all of them are complete before the first gets its name."""
    folders = [file for file in contents if file.is_dir()]
    if folders:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folders[0]))
    with ExitStack() as renames:
        for file, content in contents.items():
            renames.enter_context(replacing(file)).write_bytes(content)


def read_text(file: Location) -> str:
    """Return the content of a UTF-8 text file; raises `FileNotFoundError` if it does not exist."""
    return storage_of(file).read_bytes(file).decode("utf-8")


def local_copy(file: Location, sha256: str | None = None) -> AbstractContextManager[Path]:
    """Yield a local path to read from: the file itself, or a copy of a remote file.

    A copy whose `sha256` is known is cached for later calls. Raises `FileNotFoundError` if the file does not exist.
    """
    return storage_of(file).local_copy(file, sha256)


def find_files(folder: AnyLocation, pattern: str) -> list[AnyLocation]:
    """Return the sorted locations below a folder that match a glob pattern; none if there is no such folder."""
    return storage_of(folder).find_files(folder, pattern)


def is_file(file: Location) -> bool:
    """Return whether the file exists."""
    return storage_of(file).is_file(file)


def is_folder(folder: Location) -> bool:
    """Return whether a folder of this machine exists; False for a path that no folder can have, and for a URL."""
    try:
        return isinstance(folder, Path) and folder.is_dir()
    except (OSError, ValueError):
        return False


def remove_file(file: Location) -> None:
    """Remove a file if it exists."""
    storage_of(file).remove_file(file)


def scratch_parent(folder: Location) -> Path:
    """Return the local folder in which the new content of `folder` is built: itself, or a cache folder for a URL."""
    return storage_of(folder).scratch_parent(folder)


def move_folder(folder: Path, target: AnyLocation, *, last: str) -> AnyLocation:
    """Move a finished folder to `target` and replace an existing one.

    The file `last` is written last: its presence tells readers that the folder is complete.
    """
    storage_of(target).move_folder(folder, target, last=last)
    return target


def read_each(location: Location, read: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Yield `read(item)` of all items in order, for items that are files at the location.

    Several are read at a time if the storage is remote.
    """
    num_requests = storage_of(location).num_requests
    if num_requests == 1:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(num_requests) as pool:
        yield from pool.map(read, items)


def find_faults(folder: Location, sha256: Mapping[str, str]) -> Iterator[tuple[str, Fault]]:
    """Yield the files of a folder that are missing or damaged, given the sha256 of each by its path in the folder.

    Remote files are checked for existence only: their writes are atomic, and reads check the sha256.
    """
    return storage_of(folder).find_faults(folder, sha256)


def create_folder(folder: Location) -> None:
    """Create a folder, so that a missing permission shows early; remote storage has no empty folders."""
    storage_of(folder).create_folder(folder)


def folder_obstacle(folder: Location) -> str | None:
    """Return why no file can be created in a folder, which need not exist; None if one can, or if only a try tells."""
    return storage_of(folder).folder_obstacle(folder)


def remove_leftovers(folder: Location) -> None:
    """Remove temporary files that killed processes of this machine left in the folders of a folder."""
    storage_of(folder).remove_leftovers(folder)


def free_bytes(folder: Location) -> int | None:
    """Return the free space for new files of a folder, in bytes; None for remote storage, which has no limit."""
    return storage_of(folder).free_bytes(folder)


def link(target: Location, folder: Path) -> str:
    """Return the address of a location in a document of `folder`: a relative path on this machine, else the URL."""
    return storage_of(target).link(target, folder)


def add_folder(folder: Path, target: Location) -> None:
    """Move a finished local folder to `target`, which does not exist."""
    storage_of(target).add_folder(folder, target)


def remove_folder(folder: Location) -> None:
    """Remove a folder and all files below it, as far as possible."""
    storage_of(folder).remove_folder(folder)


def lock(folder: Location, on_wait: Callable[[], None]) -> AbstractContextManager[bool]:
    """Hold the lock of a folder; yields whether there is one. `on_wait` is called if another process holds it.

    The operating system releases the lock of a process that ends in any way. Remote storage has no locks.
    """
    return storage_of(folder).lock(folder, on_wait)
