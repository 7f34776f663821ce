"""Storage by URL: buckets of cloud providers, reached through fsspec.

An object appears whole or not at all, but a folder cannot be renamed and every look-up costs a request. Files are
therefore written on this machine and uploaded in one piece, a prepared folder's manifest last, and files to read are
downloaded first. Copies whose digest is known are cached, since they never change. All errors of a provider's library
become one `StoreError`. Only `ctrbench.storage.files` imports this module, since it needs the extra `cloud`.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from ctrbench.errors import CtrbenchError, SettingError, StoreError
from ctrbench.storage.local import Fault, disk_full_errors, sha256_of

if TYPE_CHECKING:
    from upath import UPath

PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Kinds of storage that can be read, listed and written."""
INSTALL = "pip install 'ctrbench[cloud]'"
UPLOADS = 8
"""Number of files uploaded at a time; each is held in memory."""
CACHE_BYTES = 50_000_000_000
"""Default size limit of the cached copies; the environment variable CTRBENCH_CACHE_BYTES overrides it."""
UNUSED_SECONDS = 86_400.0
"""Age from which a copy may be evicted. Newer ones stay, because every epoch reads each shard again."""
TRANSFER_PREFIX = "transfer-"
CACHE_HINT = "CTRBENCH_CACHE moves the folder of uploads and downloads"
BUCKET = "name an existing bucket"
CREDENTIALS = (
    "provide credentials with read and write access, as the provider's own tools expect them "
    "(for s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws)"
)
NETWORK = (
    "check the network and the address (for s3: AWS_ENDPOINT_URL, AWS_DEFAULT_REGION), "
    "then run the same command again"
)

# Without a handler, gcsfs prints the errors that it raises with their tracebacks.
logging.getLogger("gcsfs").addHandler(logging.NullHandler())


class CloudStorage:
    """Storage whose locations are URLs; see `ctrbench.storage.files.Storage` for the operations."""

    num_requests = 16

    @contextmanager
    def replacing(self, file: UPath, *, is_new: bool, is_durable: bool) -> Iterator[Path]:
        """Yield a path in a local transfer folder and upload it at the end."""
        with transfer_folder() as folder:
            part = folder / file.name
            with disk_full_errors(part, CACHE_HINT):
                yield part
            _upload(part, file, is_new=is_new)

    def read_bytes(self, file: UPath) -> bytes:
        """Return the content of the file, in one request."""
        with provider_errors(file, is_reading=True):
            content: bytes = file.fs.cat_file(file.path)
            return content

    @contextmanager
    def local_copy(self, file: UPath, sha256: str | None) -> Iterator[Path]:
        """Yield a downloaded copy; with its digest known it is cached, within the size limit."""
        folder = cache_folder()
        with disk_full_errors(folder, CACHE_HINT):
            cached = folder / f"{sha256}{file.suffix}"
            if sha256 is not None and _is_intact(cached, sha256):
                cached.touch()
                yield cached
                return
            with transfer_folder() as scratch:
                copy = scratch / file.name
                with provider_errors(file, is_reading=True):
                    file.fs.get_file(file.path, str(copy))
                if (
                    sha256 is not None
                    and _is_intact(copy, sha256)
                    and _evict_for(folder, copy.stat().st_size)
                ):
                    copy = copy.replace(cached)
                yield copy

    def find_files(self, folder: UPath, pattern: str) -> list[UPath]:
        """Return the sorted matches of a glob pattern."""
        with provider_errors(folder):
            return sorted(folder.glob(pattern))

    def find_faults(self, folder: UPath, sha256: Mapping[str, str]) -> Iterator[tuple[str, Fault]]:
        """Yield the files that do not exist, from one listing."""
        existing = {str(file) for file in self.find_files(folder, "**/*")}
        yield from ((file, "missing") for file in sha256 if str(folder / file) not in existing)

    def create_folder(self, folder: UPath) -> None:
        """Do nothing: a folder is the common prefix of its files."""

    def folder_obstacle(self, folder: UPath) -> None:
        """Return None: a bucket has no folders, and its permissions show on writing."""

    def remove_leftovers(self, folder: UPath) -> None:
        """Do nothing: an upload that is cut off leaves no object."""

    def free_bytes(self, folder: UPath) -> None:
        """Return None: a bucket is not limited."""
        return

    def link(self, target: UPath, folder: Path) -> str:
        """Return the URL."""
        return str(target)

    def is_file(self, file: UPath) -> bool:
        """Return whether the object exists."""
        with provider_errors(file):
            return file.is_file()

    def remove_file(self, file: UPath) -> None:
        """Remove the object if it exists."""
        with provider_errors(file):
            file.unlink(missing_ok=True)

    def scratch_parent(self, folder: UPath) -> Path:
        """Return the cache folder."""
        return cache_folder()

    def add_folder(self, folder: Path, target: UPath) -> None:
        """Upload the folder's files."""
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        objects = [(target / file.relative_to(folder).as_posix()).path for file in files]
        with provider_errors(target):
            target.fs.put([str(file) for file in files], objects, batch_size=UPLOADS)

    def remove_folder(self, folder: UPath) -> None:
        """Remove all objects below the folder."""
        with provider_errors(folder):
            objects = folder.fs.find(folder.path)
            if objects:
                folder.fs.rm(sorted(objects))

    @contextmanager
    def lock(self, folder: UPath, on_wait: Callable[[], None]) -> Iterator[bool]:
        """Yield False: object stores have no locks."""
        yield False

    def move_folder(self, folder: Path, target: UPath, *, last: str) -> None:
        """Upload the folder's files, remove other objects of the target and upload `last` at the end.

        The old `last` object is removed first, so readers never see a mixture as a finished folder.
        """
        files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / last)
        objects = [(target / file.relative_to(folder).as_posix()).path for file in files]
        end = target / last
        with provider_errors(target):
            end.unlink(missing_ok=True)
            target.fs.put([str(file) for file in files], objects, batch_size=UPLOADS)
            old = set(target.fs.find(target.path)) - set(objects)
            if old:
                target.fs.rm(sorted(old))
            target.fs.put_file(str(folder / last), end.path)


@lru_cache(maxsize=64)
def connect(url: str) -> UPath:
    """Return the location of a URL once its storage has answered; trailing slashes are ignored."""
    if not url.partition("://")[2].strip("/"):
        raise SettingError("a URL must name a bucket", value=url, remedy="write s3://bucket/folder")
    protocol = url.partition("://")[0]
    if protocol not in PROTOCOLS:
        remedy = f"write s3://bucket/folder; known: {', '.join(PROTOCOLS)}"
        raise SettingError("unsupported kind of storage", value=url, remedy=remedy)
    try:
        from upath import UPath

        # Other processes write to the same bucket, so listings must not be cached.
        location = UPath(url.rstrip("/"), use_listings_cache=False)
        file_system = location.fs
    except ImportError as error:
        rule = "remote storage requires an optional dependency"
        raise StoreError(rule, value=f"{url} ({error})", remedy=INSTALL) from None
    except ValueError as error:
        rule = "unsupported kind of storage"
        raise SettingError(rule, value=f"{url} ({error})", remedy="write s3://bucket/folder") from None
    bucket = location.path.split("/")[0]
    with provider_errors(location):
        try:
            file_system.info(location.path)
        except FileNotFoundError:
            if bucket:
                file_system.info(bucket)
    return location


@contextmanager
def provider_errors(location: UPath, *, is_reading: bool = False) -> Iterator[None]:
    """Turn all errors of a provider's library into a `StoreError`; with `is_reading`, a missing file stays one."""
    try:
        yield
    except (FileExistsError, CtrbenchError):
        raise
    except Exception as error:  # every provider's library has its own family of errors
        is_missing = is_reading and isinstance(error, FileNotFoundError)
        if is_missing or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
            raise
        value = f"{location} ({type(error).__name__}: {error})"
        raise StoreError("the storage cannot be used", value=value, remedy=_remedy_for(error)) from None


def _remedy_for(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return BUCKET
    text = f"{type(error).__name__}: {error}".lower()
    is_refused = any(word in text for word in ("credential", "forbidden", "unauthorized", "refresherror"))
    return CREDENTIALS if is_refused or isinstance(error, PermissionError) else NETWORK


def _upload(file: Path, target: UPath, *, is_new: bool) -> None:
    """Upload a file in one piece; raises `FileExistsError` if it must be new and another writer came first."""
    with provider_errors(target):
        try:
            target.fs.put_file(str(file), target.path, mode="create" if is_new else "overwrite")
        except OSError:
            # Simultaneous writers get a conflict error instead of "file exists".
            if is_new and target.exists():
                raise FileExistsError(str(target)) from None
            raise


@contextmanager
def transfer_folder() -> Iterator[Path]:
    """Yield a temporary folder for uploads and downloads; leftovers of killed processes are removed after a day."""
    folder = cache_folder()
    for leftover in folder.glob(f"{TRANSFER_PREFIX}*"):
        with suppress(FileNotFoundError):
            if leftover.stat().st_mtime < time.time() - UNUSED_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=TRANSFER_PREFIX) as scratch:
        yield Path(scratch)


def cache_folder() -> Path:
    """Return the folder of copies and transfers: CTRBENCH_CACHE, or a subfolder of the user's cache."""
    setting = os.environ.get("CTRBENCH_CACHE")
    folder = (
        Path(setting).expanduser() if setting else Path(platformdirs.user_cache_dir("ctrbench")) / "copies"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_intact(file: Path, sha256: str) -> bool:
    try:
        return sha256_of(file) == sha256
    except FileNotFoundError:
        return False


def _evict_for(folder: Path, size: int) -> bool:
    """Evict copies that are long unused, oldest first, and return whether a copy of `size` bytes fits the limit."""
    copies = sorted(_cached_copies(folder))
    free = int(os.environ.get("CTRBENCH_CACHE_BYTES", CACHE_BYTES)) - sum(length for _, length, _ in copies)
    for last_used, length, file in copies:
        if free >= size or last_used > time.time() - UNUSED_SECONDS:
            break
        Path(file).unlink(missing_ok=True)
        free += length
    return free >= size


def _cached_copies(folder: Path) -> Iterator[tuple[float, int, str]]:
    """Yield the time of last use, the size and the path of each cached copy."""
    with os.scandir(folder) as entries:
        for entry in entries:
            # Another process may remove a copy at the same time.
            with suppress(FileNotFoundError):
                if entry.is_file():
                    yield entry.stat().st_mtime, entry.stat().st_size, entry.path
