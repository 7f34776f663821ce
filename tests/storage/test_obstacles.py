"""Outputs that cannot be written are refused, and the check leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctrbench.errors import SettingError
from ctrbench.storage.files import write_files
from ctrbench.storage.leftovers import temporary_path
from ctrbench.storage.obstacles import file_obstacle, folder_obstacle
from ctrbench.storage.outputs import check_folder, check_local_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, a broken link, a loop of links, a pipe and a folder."""
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "missing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "inner").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


BAD_FOLDERS = {
    "file": "is not a folder",
    "file/below": "is not a folder",
    "file/far/below": "is not a folder",
    "broken": "is a link to a file that does not exist",
    "broken/below": "is a link to a file that does not exist",
    "loop": "Too many levels of symbolic links",
    "loop/below": "Too many levels of symbolic links",
    "n" * 256: "File name too long",
    f"{'n' * 256}/below": "File name too long",
    "a\0b": "null",
    "/proc/ctrbench": "no file can be created in /proc",
    "/proc/ctrbench/below": "no file can be created in /proc",
}


@pytest.mark.parametrize(("name", "reason"), BAD_FOLDERS.items(), ids=range(len(BAD_FOLDERS)))
def test_folders_that_cannot_be_written_have_a_reason(folder: Path, name: str, reason: str) -> None:
    assert reason in (folder_obstacle(folder / name) or "")
    assert folder_obstacle(folder / name / "below") is not None
    with pytest.raises(SettingError, match="--out must be a folder"):
        check_folder(folder / name, "--out")


BAD_FILES = {
    "inner": "is a folder",
    "pipe": "is not a regular file",
    "/dev/null": "is not a regular file",
    "broken": "is a link",
    "loop": "Too many levels",
    "file/below": "is not a folder",
    "n" * 256: "File name too long",
    "/proc/ctrbench": "no file can be created in /proc",
}


@pytest.mark.parametrize(("name", "reason"), BAD_FILES.items(), ids=range(len(BAD_FILES)))
def test_files_that_cannot_be_written_have_a_reason(folder: Path, name: str, reason: str) -> None:
    assert reason in (file_obstacle(folder / name) or "")
    with pytest.raises(SettingError, match="--json must be a file"):
        check_local_file(folder / name, "--json")


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert folder_obstacle(tmp_path) is None
    assert folder_obstacle(tmp_path / "new" / "folder") is None
    assert file_obstacle(tmp_path / "file") is None
    assert file_obstacle(tmp_path / "new" / "file") is None
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_has_a_reason(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission denied" in (folder_obstacle(tmp_path / "new") or "")


def test_a_working_directory_that_was_removed_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert folder_obstacle(Path("report")) is not None


def test_files_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(IsADirectoryError):
        write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    (tmp_path / "blocked").touch()
    with pytest.raises(OSError, match=r"."):
        write_files({tmp_path / "a": b"1", tmp_path / "blocked" / "c": b"2"})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b", "blocked"]
    write_files({tmp_path / "a": b"1", tmp_path / "d" / "c": b"2"})
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "d" / "c").read_bytes()) == (b"1", b"2")


def test_temporary_names_are_short_for_the_longest_name(tmp_path: Path) -> None:
    write_files({tmp_path / ("n" * 255): b"1"})
    assert len(temporary_path(tmp_path / ("n" * 255)).name) <= 255
