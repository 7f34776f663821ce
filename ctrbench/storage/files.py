"""Files wherever they stand: on this machine, in a shared folder or at a URL, through the same few functions.

A file is written under a temporary name in its own folder, or on this machine if it goes to a URL, and appears when
it is complete; whatever goes wrong, the old file stays and nothing half written is left. Libraries that read files
get a path of this machine from `local_copy`. A full disk is a user's error with a remedy, not a traceback.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ctrbench.errors import DataError

if TYPE_CHECKING:
    from upath import UPath

Place: TypeAlias = "Path | UPath"
"""A file or folder, on this machine or at a URL; what only paths of this machine can do goes through here."""
CACHE_HINT = "CTRBENCH_CACHE moves the files on their way to and from URLs"
AnyPlace = TypeVar("AnyPlace", bound="Path | UPath")


def location(text: str | Path) -> Place:
    """Return the place that a user names, the same for whoever works elsewhere; a URL must answer."""
    if isinstance(text, Path) or "://" not in text:
        return Path(text).expanduser().absolute()
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    from ctrbench.storage import cloud

    return cloud.connect(text)


@contextmanager
def replacing(file: Place, *, is_new: bool = False) -> Iterator[Path]:
    """Yield a temporary name to write to; it becomes `file`, made with its folder, when the block ends well.

    Raises `FileExistsError` at the end if the file must be new and is there, also if another writer came first.
    """
    with _renaming(file, is_new) if isinstance(file, Path) else _uploading(file, is_new) as part:
        yield part


@contextmanager
def _renaming(file: Path, is_new: bool) -> Iterator[Path]:
    # In a shared folder, processes of other machines have the same numbers.
    part = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with _room_on_disk(file, "CTRBENCH_HOME moves the cache"):
            file.parent.mkdir(parents=True, exist_ok=True)
            yield part
            _appear(part, file, is_new)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _uploading(file: UPath, is_new: bool) -> Iterator[Path]:
    from ctrbench.storage import cloud

    with cloud.passage() as folder:
        part = folder / file.name
        with _room_on_disk(part, CACHE_HINT):
            yield part
        cloud.upload(part, file, is_new=is_new)


@contextmanager
def _room_on_disk(file: Path, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            remedy = f"make room, or use another disk ({hint})"
            raise DataError("no space left on the disk", value=file, remedy=remedy) from None
        raise


def _appear(part: Path, file: Path, is_new: bool) -> None:
    """Give a file its name; a new one does not take that of another, which renaming would do and linking does not."""
    if not is_new:
        part.replace(file)
        return
    try:
        file.hardlink_to(part)
    except OSError:
        # Some shared folders know no links.
        if file.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file)) from None
        part.replace(file)


def write_text(file: AnyPlace, text: str, *, is_new: bool = False) -> AnyPlace:
    """Write a text file (UTF-8, line ends as they are) in one move."""
    with replacing(file, is_new=is_new) as part:
        part.write_text(text, encoding="utf-8", newline="")
    return file


def read_text(file: Place) -> str:
    """Return what a text file (UTF-8) holds; raises `FileNotFoundError` where there is none."""
    if isinstance(file, Path):
        return file.read_text(encoding="utf-8")
    from ctrbench.storage import cloud

    return cloud.read_bytes(file).decode("utf-8")


@contextmanager
def local_copy(file: Place, sha256: str | None = None) -> Iterator[Path]:
    """Yield a path of this machine to read from: the file itself, or a copy of what stands at a URL.

    With its digest known a copy is kept for the next time. Raises `FileNotFoundError` where there is no file.
    """
    if isinstance(file, Path):
        if not file.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
        yield file
        return
    from ctrbench.storage import cloud

    with _room_on_disk(cloud.cache_folder(), CACHE_HINT), cloud.local_copy(file, sha256) as copy:
        yield copy


def matching(folder: AnyPlace, pattern: str) -> list[AnyPlace]:
    """Return the files below a folder that a pattern fits, by name; none where there is no folder."""
    if isinstance(folder, Path):
        return sorted(folder.glob(pattern))
    from ctrbench.storage import cloud

    with cloud.reaching(folder):
        return sorted(folder.glob(pattern))


def is_there(file: Place) -> bool:
    """Tell whether a file is there."""
    if isinstance(file, Path):
        return file.is_file()
    from ctrbench.storage import cloud

    with cloud.reaching(file):
        return file.is_file()


def remove(file: Place) -> None:
    """Remove a file if it is there."""
    if isinstance(file, Path):
        file.unlink(missing_ok=True)
        return
    from ctrbench.storage import cloud

    with cloud.reaching(file):
        file.unlink(missing_ok=True)


def workplace(folder: Place) -> Path:
    """Return where what goes into a folder is made first: there, or on this machine for a URL."""
    if isinstance(folder, Path):
        return folder
    from ctrbench.storage import cloud

    return cloud.cache_folder()


def move_folder(folder: Path, target: AnyPlace, *, last: str) -> AnyPlace:
    """Put a finished folder in the place of another, if there is one; readers know it by its `last` file."""
    if isinstance(target, Path):
        if target.exists():
            # Whoever made the scratch folder removes it, and what is replaced with it.
            target.rename(folder.with_name("old"))
        folder.rename(target)
        return target
    from ctrbench.storage import cloud

    cloud.upload_folder(folder, target, last=last)
    return target


def is_disk_full(error: OSError) -> bool:
    """Tell a full disk from other faults; libraries that wrap the system's error keep its number in the text."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
