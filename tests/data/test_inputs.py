from __future__ import annotations

import os
from pathlib import Path

from ctrbench.data.inputs import INPUTS, inputs_of, read_inputs, write_inputs


def test_inputs_list_files_and_files_directly_in_folders(tmp_path: Path) -> None:
    (tmp_path / "raw" / "deeper").mkdir(parents=True)
    for name in ("a.csv", "raw/b.csv", "raw/deeper/c.csv"):
        (tmp_path / name).write_text("1,2")
    inputs = inputs_of([tmp_path / "a.csv", tmp_path / "raw"])
    assert [Path(name).name for name in inputs.files] == ["a.csv", "b.csv"]
    assert [size for size, _ in inputs.files.values()] == [3, 3]


def test_recently_modified_files_are_not_settled(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    assert not inputs_of([tmp_path]).are_settled
    os.utime(tmp_path / "a.csv", ns=(1, 1))
    assert inputs_of([tmp_path]).are_settled


def test_stored_inputs_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    inputs = inputs_of([tmp_path])
    write_inputs(tmp_path, inputs)
    assert read_inputs(tmp_path) == inputs


def test_damaged_or_missing_inputs_are_none(tmp_path: Path) -> None:
    assert read_inputs(tmp_path) is None
    for text in ("", "[]", '{"files": {}}'):
        (tmp_path / INPUTS).write_text(text)
        assert read_inputs(tmp_path) is None
