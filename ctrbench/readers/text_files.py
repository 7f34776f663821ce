"""Text files on disk or inside .zip archives, found by the names that a card lists."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from ctrbench.errors import DataError, SourceError


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
            with zipfile.ZipFile(self.path) as archive:
                return archive.getinfo(self.member).file_size
        except zipfile.BadZipFile:
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
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as member:
                yield cast(BinaryIO, member)
        # An encrypted member raises RuntimeError.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            value, remedy = f"{self}: {error}", "download it again"
            raise DataError("damaged archive", value=value, remedy=remedy) from None


def find_text_files(paths: Sequence[Path], names: Sequence[str]) -> list[TextFile]:
    """Return the text files of files, archives and folders.

    Folders and archives contribute the files in `names`; a folder must have all of them. A text file that is named
    itself is accepted under any name. The result is in the order of `names`, then in the order of `paths`.
    """
    files: dict[str, TextFile] = {}
    for path in paths:
        if not path.exists():
            raise SourceError("no such file or folder", value=path)
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
    for archive in sorted(folder.glob("*.zip")) if len(files) < len(names) else []:
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
    with zipfile.ZipFile(archive) as file:
        members = [name for name in file.namelist() if name.endswith(".txt") and "__MACOSX" not in name]
    return [TextFile(path=archive, member=name) for name in members]
