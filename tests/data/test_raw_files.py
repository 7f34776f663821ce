from __future__ import annotations

import os
from pathlib import Path

from ctrbench.data.raw_files import STATS, read_stats, stat_raw_files, write_stats


def test_stats_list_files_and_files_directly_in_folders(tmp_path: Path) -> None:
    (tmp_path / "raw" / "deeper").mkdir(parents=True)
    for name in ("a.csv", "raw/b.csv", "raw/deeper/c.csv"):
        (tmp_path / name).write_text("1,2")
    stats = stat_raw_files([tmp_path / "a.csv", tmp_path / "raw"])
    assert [Path(name).name for name in stats.files] == ["a.csv", "b.csv"]
    assert [size for size, _ in stats.files.values()] == [3, 3]


def test_recently_modified_files_are_not_settled(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    assert not stat_raw_files([tmp_path]).are_settled
    os.utime(tmp_path / "a.csv", ns=(1, 1))
    assert stat_raw_files([tmp_path]).are_settled


def test_stored_stats_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    stats = stat_raw_files([tmp_path])
    write_stats(tmp_path, stats)
    assert read_stats(tmp_path) == stats


def test_damaged_or_missing_stats_are_none(tmp_path: Path) -> None:
    assert read_stats(tmp_path) is None
    for text in (
        "",
        "[]",
        '{"files": {}}',
        '{"at": 1, "files": []}',
        '{"at": 1, "files": {"a": 1}}',
        "[" * 100_000,
    ):
        (tmp_path / STATS).write_text(text)
        assert read_stats(tmp_path) is None


def test_stats_that_cannot_be_written_are_left_out(tmp_path: Path) -> None:
    (tmp_path / STATS).mkdir()
    write_stats(tmp_path, stat_raw_files([]))
    assert read_stats(tmp_path) is None


def test_paths_that_no_file_has_are_left_out() -> None:
    assert stat_raw_files([Path("a" * 300), Path("none")]).files == {}
