from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ctrbench.errors import DataError
from ctrbench.storage.files import read_text, replacing, write_text


def fail_halfway(file: Path, error: Exception) -> None:
    with replacing(file) as part:
        part.write_text("half")
        raise error


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    with replacing(file) as part:
        part.write_text("half")
        assert not file.exists()
    assert file.read_text() == "half"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyError):
        fail_halfway(file, KeyError())
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_full_disk_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no space left.*a\.txt.*free some space"):
        fail_halfway(tmp_path / "a.txt", OSError(errno.ENOSPC, "No space left on device"))
    assert not list(tmp_path.iterdir())


def test_other_errors_are_not_converted(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        fail_halfway(tmp_path / "a.txt", PermissionError(errno.EACCES, "no"))


def test_a_named_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a named pipe"):
        read_text(tmp_path / "pipe")
