"""Archives and truth files that are damaged, encrypted, too large or not archives at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from ctrbench.errors import CtrbenchError, DataError
from ctrbench.readers.base import RawData, ReadRequest
from ctrbench.readers.iaac import ROUND1_FILE, TRUTH_SUFFIX, IaacReader
from ctrbench.readers.movielens import MovieLensReader
from ctrbench.synthetic.iaac.twin import make_twin

RATINGS = "1::1::5::978300760\n"
TABLES = {
    "ratings.dat": RATINGS * 200,
    "users.dat": "1::F::1::10::48067\n",
    "movies.dat": "1::Toy Story (1995)::Animation\n",
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text of a twin, with the truth file beside it."""
    folder = tmp_path_factory.mktemp("twin")
    make_twin(3000, folder, seed=0)
    return next(folder.glob("*.txt"))


def read(reader: type[IaacReader | MovieLensReader], path: Path) -> RawData:
    scratch = path.parent / "scratch"
    scratch.mkdir()
    return reader().read(ReadRequest(paths=(path,), scratch=scratch))


def pack(archive: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(archive, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return archive.read_bytes()


def damage_data(content: bytes) -> bytes:
    """Return an archive whose first member is damaged in its middle; its directory stays."""
    middle = content.index(b"PK\x01\x02") // 2
    return (
        content[:middle]
        + bytes(byte ^ 0x55 for byte in content[middle : middle + 40])
        + content[middle + 40 :]
    )


def encrypt(content: bytes) -> bytes:
    """Return an archive whose members are marked as encrypted."""
    changed = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(signature)
        while start >= 0:
            changed[start + offset] |= 1
            start = content.find(signature, start + 4)
    return bytes(changed)


def declare_size(content: bytes) -> bytes:
    """Return an archive whose directory declares members of 4 GB."""
    changed = bytearray(content)
    start = content.find(b"PK\x01\x02")
    while start >= 0:
        changed[start + 24 : start + 28] = (0xFFFFFFF0).to_bytes(4, "little")
        start = content.find(b"PK\x01\x02", start + 4)
    return bytes(changed)


def unknown_compression(content: bytes) -> bytes:
    changed = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        changed[content.find(signature) + offset] = 99
    return bytes(changed)


def damage_directory(content: bytes) -> bytes:
    start = content.index(b"PK\x01\x02")
    return content[:start] + b"\xff" * 30 + content[start + 30 :]


CHANGES: dict[str, tuple[int, Callable[[bytes], bytes], str]] = {
    "damaged deflate": (zipfile.ZIP_DEFLATED, damage_data, "damaged archive"),
    "damaged bzip2": (zipfile.ZIP_BZIP2, damage_data, "damaged archive"),
    "damaged LZMA": (zipfile.ZIP_LZMA, damage_data, "damaged archive"),
    "damaged stored": (zipfile.ZIP_STORED, damage_data, "damaged archive"),
    "encrypted": (zipfile.ZIP_DEFLATED, encrypt, "encrypted"),
    "unknown compression": (zipfile.ZIP_DEFLATED, unknown_compression, "damaged archive"),
    "damaged directory": (zipfile.ZIP_DEFLATED, damage_directory, "damaged archive"),
    "cut": (zipfile.ZIP_DEFLATED, lambda content: content[:-40], "archive"),
    "shorter than its directory says": (zipfile.ZIP_STORED, lambda content: content[100:], "damaged archive"),
    "empty": (zipfile.ZIP_DEFLATED, lambda content: b"", "archive"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_damaged_archive_is_one_error(tmp_path: Path, twin: Path, kind: str) -> None:
    compression, change, problem = CHANGES[kind]
    tables = {name: text.encode() for name, text in TABLES.items()}
    for reader, members in ((IaacReader, {ROUND1_FILE: twin.read_bytes()}), (MovieLensReader, tables)):
        folder = tmp_path / reader.__name__
        folder.mkdir()
        archive = folder / "data.zip"
        archive.write_bytes(change(pack(archive, members, compression)))
        with pytest.raises(CtrbenchError, match=problem) as info:
            read(reader, archive)
        assert str(archive) in str(info.value.value)
        assert info.value.remedy


@pytest.mark.parametrize("name", ["../", "/", "..\\", "a/../../"])
def test_members_outside_the_folder_of_the_archive_are_refused(tmp_path: Path, twin: Path, name: str) -> None:
    tables = {name + table: text.encode() for table, text in TABLES.items()}
    for reader, members in ((IaacReader, {name + ROUND1_FILE: twin.read_bytes()}), (MovieLensReader, tables)):
        folder = tmp_path / reader.__name__
        folder.mkdir()
        pack(folder / "data.zip", members)
        if name == "..\\" and reader is MovieLensReader:
            continue
        with pytest.raises(DataError, match=r"must have relative paths without \.\."):
            read(reader, folder / "data.zip")


def test_an_archive_that_declares_more_than_the_disk_holds_is_refused(
    tmp_path: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "data.zip"
    archive.write_bytes(declare_size(pack(archive, {ROUND1_FILE: twin.read_bytes()})))

    class Usage:
        free = 2_000_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(DataError, match=r"must fit the free disk space: 4,294,967,280 bytes in .*data.zip"):
        read(IaacReader, archive)


def test_a_table_of_movielens_that_declares_too_many_bytes_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "ml-1m.zip"
    tables = {name: text.encode() for name, text in TABLES.items()}
    archive.write_bytes(declare_size(pack(archive, tables)))
    with pytest.raises(DataError, match=r"at most 268,435,456 bytes: .*ml-1m.zip: .*dat has 4,294,967,280"):
        read(MovieLensReader, archive)


def test_a_text_without_line_ends_is_read_in_blocks(tmp_path: Path, twin: Path) -> None:
    header = twin.read_bytes().partition(b"\n")[0]
    pack(tmp_path / "data.zip", {ROUND1_FILE: header + b"\n" + b"1 " * 1_000_000})
    with pytest.raises(DataError, match="a line has 27 values"):
        read(IaacReader, tmp_path / "data.zip")


def write_other_column(path: Path) -> None:
    pl.DataFrame({"p": [0.5]}).write_parquet(path)


def write_text_column(path: Path) -> None:
    pl.DataFrame({"probability": ["x"] * 3000}).write_parquet(path)


def write_large_values(path: Path) -> None:
    pl.DataFrame({"probability": [1.5] * 3000}).write_parquet(path)


def write_nan(path: Path) -> None:
    pl.DataFrame({"probability": [float("nan")] * 3000}).write_parquet(path)


TRUTHS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "must be a parquet file with a column probability"),
    "text": (lambda path: path.write_bytes(b"0.5\n" * 3000), "must be a parquet file"),
    "folder": (Path.mkdir, "must be a parquet file|regular file"),
    "named pipe": (os.mkfifo, "regular file"),
    "other column": (write_other_column, "must be a parquet file with a column probability"),
    "texts": (write_text_column, "of numbers"),
    "too large": (write_large_values, r"in \[0, 1\]"),
    "not numbers": (write_nan, r"in \[0, 1\]"),
}


@pytest.mark.parametrize("kind", [*TRUTHS, "cut"])
def test_a_truth_file_must_be_a_table_of_probabilities(tmp_path: Path, twin: Path, kind: str) -> None:
    data = tmp_path / twin.name
    data.write_bytes(twin.read_bytes())
    truth = data.with_name(data.name + TRUTH_SUFFIX)
    make, problem = TRUTHS.get(kind, (lambda path: None, "must be a parquet file"))
    make(truth)
    if kind == "cut":
        truth.write_bytes(twin.with_name(twin.name + TRUTH_SUFFIX).read_bytes()[:-50])
    with pytest.raises(CtrbenchError, match=problem):
        read(IaacReader, data)


def irregular(folder: Path) -> Iterator[Path]:
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    yield from (folder / "loop", folder / "pipe", folder / ("x" * 300), folder / "none")


@pytest.mark.parametrize("reader", [IaacReader, MovieLensReader])
def test_a_path_without_a_file_is_one_error(
    tmp_path: Path, reader: type[IaacReader | MovieLensReader]
) -> None:
    for index, path in enumerate(irregular(tmp_path)):
        scratch = tmp_path / str(index)
        scratch.mkdir()
        with pytest.raises(CtrbenchError, match=r"no such data file|must be a regular file or a folder"):
            reader().read(ReadRequest(paths=(path,), scratch=scratch))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "text", ["", "\xff", "1", "::::::", "x::x::x::x\n", "1::1::99999999999999999999::1\n", "\0" * 100]
)
def test_senseless_tables_of_movielens_are_one_error(tmp_path: Path, name: str, text: str) -> None:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    for table, content in (TABLES | {name: text}).items():
        (folder / table).write_text(content, encoding="latin-1")
    with pytest.raises(CtrbenchError):
        read(MovieLensReader, folder)
