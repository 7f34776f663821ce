from __future__ import annotations

import platform
from pathlib import Path

import pytest

from ctrbench.storage.scratch import scratch_folder

NO_PROCESS = 2**22 + 1
"""Above the largest process id of Linux."""


def fail_inside(parent: Path) -> None:
    with scratch_folder(parent, "shop") as folder:
        (folder / "part").write_text("half")
        raise KeyError


def test_the_folder_is_hidden_and_removed_at_the_end(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "datasets", "shop") as folder:
        assert folder.name.startswith(".shop.")
        (folder / "part").write_text("half")
    assert list((tmp_path / "datasets").iterdir()) == []


def test_the_folder_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail_inside(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    machine = platform.node().replace(".", "-")
    leftover = tmp_path / f".shop.{machine}.{NO_PROCESS}.part"
    # Process 1 is running, and the processes of another machine are unknown.
    active = [tmp_path / f".other.{machine}.1.part", tmp_path / f".other.far.{NO_PROCESS}.part"]
    for folder in (leftover, *active):
        folder.mkdir()
    with scratch_folder(tmp_path, "shop"):
        assert not leftover.exists()
    assert all(folder.exists() for folder in active)
