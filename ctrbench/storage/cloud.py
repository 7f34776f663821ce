"""Storage by URL: buckets reached through fsspec, and what is different there.

An object appears whole or not at all, but a folder can't be renamed and every look costs a request. So files are
made on this machine and put in one piece, a prepared folder's manifest last, and what is read is copied here first;
copies of files whose digest is known are kept, since they never change. Whatever a cloud's library raises becomes one
clear error. Only `ctrbench.storage.files` calls this module, and only for URLs: it imports packages of the extra
`cloud`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from ctrbench.errors import CtrbenchError, SettingError, StoreError

if TYPE_CHECKING:
    from upath import UPath

INSTALL = "pip install 'ctrbench[cloud]'"
UPLOADS = 8
"""Files on their way at a time; each is held in memory."""
KEPT_BYTES = 50_000_000_000
"""Size of all copies kept on this machine; CTRBENCH_CACHE_BYTES says otherwise."""
UNUSED_SECONDS = 86_400.0
"""A copy not used for so long may give way. Newer ones stay: an epoch comes back to each of them."""
BUCKET = "name a bucket that is there"
CREDENTIALS = (
    "give credentials with the right to read and write there, the way the cloud's own tools take them "
    "(for s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws)"
)
NETWORK = (
    "look at the network and the address (for s3: AWS_ENDPOINT_URL, AWS_DEFAULT_REGION), "
    "then run the same command again"
)

# Google's library would print what it raises, traces and all, where nobody has set up logging.
logging.getLogger("gcsfs").addHandler(logging.NullHandler())


@lru_cache(maxsize=64)
def connect(url: str) -> UPath:
    """Return the place that a URL names, once it has answered; a slash at its end is none."""
    if not url.partition("://")[2].strip("/"):
        raise SettingError("a URL names a bucket", value=url, remedy="s3://bucket/folder")
    try:
        from upath import UPath

        # Others write there too: what was listed a moment ago proves nothing.
        place = UPath(url.rstrip("/"), use_listings_cache=False)
        file_system = place.fs
    except ImportError as error:
        raise StoreError("storage by URL needs an extra", value=f"{url} ({error})", remedy=INSTALL) from None
    except ValueError as error:
        raise SettingError(
            "no storage of that kind", value=f"{url} ({error})", remedy="s3://bucket/folder"
        ) from None
    bucket = place.path.split("/")[0]
    with reaching(place):
        try:
            file_system.info(place.path)
        except FileNotFoundError:
            if bucket:
                file_system.info(bucket)
    return place


@contextmanager
def reaching(place: UPath, *, is_reading: bool = False) -> Iterator[None]:
    """Turn whatever a cloud's library raises into one clear error; when reading, a missing file stays one."""
    try:
        yield
    except (FileExistsError, CtrbenchError):
        raise
    except Exception as error:  # each cloud's library has a family of errors of its own
        is_missing = is_reading and isinstance(error, FileNotFoundError)
        if is_missing or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
            raise
        value = f"{place} ({type(error).__name__}: {error})"
        raise StoreError("the storage cannot be used", value=value, remedy=_remedy(error)) from None


def _remedy(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return BUCKET
    told = f"{type(error).__name__}: {error}".lower()
    is_refused = any(word in told for word in ("credential", "forbidden", "unauthorized", "refresherror"))
    return CREDENTIALS if is_refused or isinstance(error, PermissionError) else NETWORK


def upload(file: Path, place: UPath, *, is_new: bool = False) -> None:
    """Put a file in one piece; `FileExistsError` if it must be new and another one came first."""
    with reaching(place):
        try:
            place.fs.put_file(str(file), place.path, mode="create" if is_new else "overwrite")
        except OSError:
            # Two that come at once are told of a conflict, not of the other's file.
            if is_new and place.exists():
                raise FileExistsError(str(place)) from None
            raise


def upload_folder(folder: Path, place: UPath, *, last: str) -> None:
    """Put a folder in the place of another; without its `last` file, which goes first and comes last, it is none."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / last)
    targets = [(place / file.relative_to(folder).as_posix()).path for file in files]
    end = place / last
    with reaching(place):
        end.unlink(missing_ok=True)
        place.fs.put([str(file) for file in files], targets, batch_size=UPLOADS)
        old = set(place.fs.find(place.path)) - set(targets)
        if old:
            place.fs.rm(sorted(old))
        place.fs.put_file(str(folder / last), end.path)


def read_bytes(place: UPath) -> bytes:
    """Return what a file holds, in one request."""
    with reaching(place, is_reading=True):
        content: bytes = place.fs.cat_file(place.path)
        return content


@contextmanager
def local_copy(place: UPath, sha256: str | None) -> Iterator[Path]:
    """Yield a copy on this machine; with its digest known it is kept, within bounds, for the next time."""
    folder = cache_folder()
    kept = folder / f"{sha256}{place.suffix}"
    if sha256 is not None and _is_whole(kept, sha256):
        kept.touch()
        yield kept
        return
    with passage() as scratch:
        copy = scratch / place.name
        with reaching(place, is_reading=True):
            place.fs.get_file(place.path, str(copy))
        if sha256 is not None and _is_whole(copy, sha256) and _make_room(folder, copy.stat().st_size):
            copy = copy.replace(kept)
        yield copy


@contextmanager
def passage() -> Iterator[Path]:
    """Yield a folder for what is on its way; what killed processes left in theirs goes after a day."""
    folder = cache_folder()
    for left in folder.glob("passage-*"):
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - UNUSED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="passage-") as scratch:
        yield Path(scratch)


def cache_folder() -> Path:
    """Return where copies are kept, and where what goes to a URL is made: CTRBENCH_CACHE, or the user's cache."""
    named = os.environ.get("CTRBENCH_CACHE")
    folder = Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("ctrbench")) / "copies"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_whole(file: Path, sha256: str) -> bool:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _make_room(folder: Path, size: int) -> bool:
    """Tell whether a copy of that size may be kept, once those long unused have given way to it, oldest first."""
    kept = sorted(_copies(folder))
    room = int(os.environ.get("CTRBENCH_CACHE_BYTES", KEPT_BYTES)) - sum(length for _, length, _ in kept)
    for used, length, file in kept:
        if room >= size or used > time.time() - UNUSED_SECONDS:
            break
        Path(file).unlink(missing_ok=True)
        room += length
    return room >= size


def _copies(folder: Path) -> Iterator[tuple[float, int, str]]:
    """Yield when each copy was last used, its size and its path."""
    with os.scandir(folder) as entries:
        for entry in entries:
            # Another process may remove one meanwhile.
            with suppress(FileNotFoundError):
                if entry.is_file():
                    yield entry.stat().st_mtime, entry.stat().st_size, entry.path
