"""Text files on disk or inside .zip archives, found by the names that a card lists."""

from __future__ import annotations

import errno
import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from ctrbench.errors import CtrbenchError, DataError, SourceError
from ctrbench.plain_text import one_line

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,
    ArithmeticError,
    ValueError,
    # Encrypted members and unknown compression.
    RuntimeError,
)
"""Errors of damaged and of unsupported archives."""


@contextmanager
def archive_errors(archive: object) -> Iterator[None]:
    """Turn the errors of damaged, encrypted and unsupported archives into `DataError`."""
    remedy = "download it again, or unpack it and pass the files"
    try:
        yield
    except CtrbenchError:
        raise
    except DAMAGE as error:
        raise DataError("damaged archive", value=f"{archive}: {error}", remedy=remedy) from None
    except OSError as error:
        # bzip2 raises it without an error number; a wrong offset leads to a position before the file.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise DataError("damaged archive", value=f"{archive}: {error}", remedy=remedy) from None


def missing_file_error(path: Path) -> SourceError:
    """Return the error for a path that is neither a regular file nor a folder."""
    remedy = "correct the card's path, or pass --source PATH"
    if path_exists(path):
        return SourceError("the data must be a regular file or a folder", value=path, remedy=remedy)
    return SourceError("no such data file", value=path, remedy=remedy)


def path_exists(path: Path) -> bool:
    """Return whether there is anything at a path; False for a path that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_file_names(files: Sequence[Path]) -> None:
    """Raise `SourceError` for a file whose name is no text, which no card and no manifest can hold."""
    for file in files:
        try:
            str(file).encode()
        except UnicodeEncodeError:
            name = one_line(file)
            raise SourceError(
                "the path of a data file must be valid UTF-8", value=name, remedy="rename the file"
            ) from None


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """One text file: a file on disk, or a member of an archive on disk."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """Name of the text file without folders."""
        return Path(self.member or self.path).name

    @property
    def num_bytes(self) -> int:
        """Size of the text; 0 if a damaged archive does not state it."""
        if self.member is None:
            return self.path.stat().st_size
        try:
            with archive_errors(self), zipfile.ZipFile(self.path) as archive:
                return archive.getinfo(self.member).file_size
        except DataError:
            return 0

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open for reading; a damaged archive raises `DataError`, also while the block reads from it."""
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
            return
        with archive_errors(self):
            archive = zipfile.ZipFile(self.path)
        with archive:
            with archive_errors(self):
                member = archive.open(self.member)
            with member:
                yield cast(BinaryIO, _Member(self, cast(BinaryIO, member)))


@dataclass(frozen=True)
class _Member:
    """The stream of a member, whose errors name the archive."""

    file: TextFile
    stream: BinaryIO

    def read(self, size: int = -1) -> bytes:
        with archive_errors(self.file):
            return self.stream.read(size)

    def readline(self, size: int = -1) -> bytes:
        with archive_errors(self.file):
            return self.stream.readline(size)


def check_unpacked_size(files: Sequence[TextFile], scratch: Path) -> None:
    """Raise `DataError` if the members of archives are declared to be larger than the free disk space."""
    size = sum(file.num_bytes for file in files if file.member is not None)
    free = shutil.disk_usage(scratch).free
    if size > free:
        raise DataError(
            "the text of an archive must fit the free disk space",
            value=f"{size:,} bytes in {', '.join(map(str, files))}, {free:,} bytes free",
            remedy="free some space, or set CTRBENCH_HOME to a folder on another disk",
        )


def find_text_files(paths: Sequence[Path], names: Sequence[str]) -> list[TextFile]:
    """Return the text files of files, archives and folders.

    Folders and archives contribute the files in `names`; a folder must have all of them. A text file that is named
    itself is accepted under any name. The result is in the order of `names`, then in the order of `paths`.
    """
    files: dict[str, TextFile] = {}
    for path in paths:
        if not path_exists(path) or not (path.is_dir() or path.is_file()):
            raise missing_file_error(path)
        for file in _files_in_folder(path, names) if path.is_dir() else _files_in_archive(path, names):
            if file.name in files:
                raise SourceError("the same file is given twice", value=f"{files[file.name]} and {file}")
            files[file.name] = file
    if not files:
        raise SourceError("no file is given", remedy=f"give {' and '.join(names)} with --source")
    return sorted(
        files.values(), key=lambda file: names.index(file.name) if file.name in names else len(names)
    )


def _files_in_folder(folder: Path, names: Sequence[str]) -> list[TextFile]:
    files = {name: TextFile(path=folder / name) for name in names if (folder / name).is_file()}
    archives = sorted(path for path in folder.glob("*.zip") if path.is_file())
    for archive in archives if len(files) < len(names) else []:
        for file in _archive_members(archive):
            if file.name in names:
                files.setdefault(file.name, file)
    missing = [name for name in names if name not in files]
    if missing:
        raise SourceError(
            "the folder lacks a file of the dataset (as text or in a .zip)",
            value=f"{folder} has no {' and no '.join(missing)}",
            remedy="add the file, or pass the files to read one by one",
        )
    return list(files.values())


def _files_in_archive(path: Path, names: Sequence[str]) -> list[TextFile]:
    if path.suffix.lower() != ".zip":
        return [TextFile(path=path)]
    members = _archive_members(path)
    expected = [file for file in members if file.name in names]
    if not expected and len(members) != 1:
        content = ", ".join(file.name for file in members[:5]) or "no text file"
        raise SourceError(
            f"the archive contains none of {', '.join(names)}",
            value=f"{path} contains {content}",
            remedy="pass the archive of this dataset",
        )
    return expected or members


def _archive_members(archive: Path) -> list[TextFile]:
    if not zipfile.is_zipfile(archive):
        raise SourceError(
            "not a zip archive", value=archive, remedy="download it again, or pass the .txt file itself"
        )
    with archive_errors(archive), zipfile.ZipFile(archive) as file:
        members = [name for name in file.namelist() if name.endswith(".txt") and "__MACOSX" not in name]
    for name in members:
        check_member_name(archive, name)
    return [TextFile(path=archive, member=name) for name in members]


def check_member_name(archive: Path, name: str) -> None:
    """Raise `DataError` for the name of a member outside the archive's own folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataError(
            "the members of an archive must have relative paths without ..",
            value=f"{archive}: {name!r}",
            remedy="pack the files again, or unpack them and pass the files",
        )
