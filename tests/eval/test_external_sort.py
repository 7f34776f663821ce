from __future__ import annotations

import os
import tempfile
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrbench.eval.external_sort import ScratchRows, read_all, scratch_parent, sorted_pieces

ROW = np.dtype([("value", np.float32), ("index", np.int64)])


def source(values: Sequence[float] | np.ndarray, folder: Path) -> ScratchRows:
    rows = np.empty(len(values), dtype=ROW)
    rows["value"], rows["index"] = values, np.arange(len(values))
    rows.tofile(folder / "source")
    return ScratchRows(file=folder / "source", dtype=ROW, chunk=7, is_single=False)


def pieces(values: list[float], folder: Path, limit: int = 10) -> list[np.ndarray]:
    parts = sorted_pieces(source(values, folder), "value", limit=limit, chunk=7, folder=folder)
    return [read_all(piece) for piece in parts]


@given(st.lists(st.integers(-5, 5) | st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=120))
@settings(max_examples=40, deadline=None)
def test_pieces_hold_all_rows_in_order(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    parts = pieces(values, tmp_path_factory.mktemp("rows"))
    ordered = np.concatenate([np.sort(piece["value"]) for piece in parts])
    assert ordered.tolist() == np.sort(np.array(values, dtype=np.float32)).tolist()
    assert sorted(np.concatenate([piece["index"] for piece in parts])) == list(range(len(values)))


@given(st.lists(st.integers(-5, 5) | st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=120))
@settings(max_examples=40, deadline=None)
def test_pieces_are_small_or_have_one_value(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    parts = pieces(values, tmp_path_factory.mktemp("rows"))
    kinds = [np.unique(piece["value"]) for piece in parts]
    assert all(piece.size <= 10 or kind.size == 1 for piece, kind in zip(parts, kinds, strict=True))
    assert np.unique(np.concatenate(kinds)).size == sum(kind.size for kind in kinds)


def test_a_source_within_the_limit_is_yielded_unchanged(tmp_path: Path) -> None:
    (piece,) = pieces([3.0, 1.0, 2.0], tmp_path)
    assert piece["value"].tolist() == [3.0, 1.0, 2.0]


def test_ranges_that_are_still_too_large_are_split_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.eval.external_sort.SAMPLE_SIZE", 2)
    parts = pieces([float(value % 97) for value in range(400)], tmp_path)
    assert max(piece.size for piece in parts) <= 10
    assert sum(piece.size for piece in parts) == 400


def test_memory_is_bounded_by_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctrbench.eval.external_sort.SAMPLE_SIZE", 2**8)
    rows = replace(source(np.random.default_rng(0).normal(size=200_000), tmp_path), chunk=5_000)
    tracemalloc.start()
    sizes = [
        piece.num_rows for piece in sorted_pieces(rows, "value", limit=10_000, chunk=5_000, folder=tmp_path)
    ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(sizes) == 200_000
    assert peak < 10_000 * ROW.itemsize * 4  # the rows are five times as many bytes


def test_a_piece_is_deleted_when_the_next_is_requested(tmp_path: Path) -> None:
    parts = sorted_pieces(
        source([*map(float, range(60))], tmp_path), "value", limit=10, chunk=7, folder=tmp_path
    )
    first = next(parts)
    assert isinstance(first, ScratchRows)
    next(parts)
    assert not first.file.exists()


def test_scratch_files_of_a_read_only_folder_are_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "other"))
    home = tmp_path / "home"
    assert scratch_parent(home) == tmp_path
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    assert scratch_parent(home) == tmp_path / "other"
