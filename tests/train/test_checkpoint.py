"""A checkpoint is used only if it is intact and belongs to the run."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctrbench.failures import Interrupted
from ctrbench.train.checkpoint import Checkpoint

STATE: dict[str, Any] = {"weights": torch.arange(2000, dtype=torch.float32), "history": {"epoch": 3}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", "run a")
    checkpoint.save(STATE)
    return checkpoint


def path_of(checkpoint: Checkpoint) -> Path:
    assert isinstance(checkpoint.file, Path)
    return checkpoint.file


def test_a_checkpoint_returns_the_saved_state(checkpoint: Checkpoint) -> None:
    state = checkpoint.load()
    assert state is not None
    assert torch.equal(state["weights"], STATE["weights"])
    assert state["history"] == {"epoch": 3}
    assert sorted(state) == ["history", "weights"]


def test_a_missing_checkpoint_is_none(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "checkpoint.pt", "run a").load() is None


def test_any_flipped_bit_is_noticed(checkpoint: Checkpoint) -> None:
    content = path_of(checkpoint).read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(content), 200).tolist():
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path_of(checkpoint).write_bytes(changed)
        assert checkpoint.load() is None, f"bit {bit}"


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 5000, -1, -33])
def test_a_cut_file_is_noticed(checkpoint: Checkpoint, size: int) -> None:
    content = path_of(checkpoint).read_bytes()
    path_of(checkpoint).write_bytes(content[:size])
    assert checkpoint.load() is None


def test_appended_bytes_are_noticed(checkpoint: Checkpoint) -> None:
    path_of(checkpoint).write_bytes(path_of(checkpoint).read_bytes() + b"\0")
    assert checkpoint.load() is None


def test_the_checkpoint_of_another_run_is_not_used(checkpoint: Checkpoint) -> None:
    assert Checkpoint(checkpoint.file, "run b").load() is None


@pytest.mark.parametrize("content", [[1], {"format": 2, "run": "run a"}, {"run": "run a"}, 3])
def test_foreign_content_with_a_right_digest_is_not_used(
    checkpoint: Checkpoint, content: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda _state, stream: save(content, stream))
    checkpoint.save({})
    assert checkpoint.load() is None


def test_a_directory_in_its_place_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").mkdir()
    assert Checkpoint(tmp_path / "checkpoint.pt").load() is None


@pytest.fixture
def small_files() -> Iterator[None]:
    """Limit the size of files, as `ulimit -f` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_of_writing_is_that_of_the_file_and_keeps_the_previous_checkpoint(
    checkpoint: Checkpoint, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match=r"File too large.*checkpoint\.pt"):
        checkpoint.save({**STATE, "more": 1})
    state = checkpoint.load()
    assert state is not None
    assert "more" not in state


@pytest.mark.parametrize("write", [1, 2, 5, 8, 20])
def test_a_signal_while_writing_stays_a_signal(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    class Interrupting:
        writes = 0

        def update(self, _: bytes) -> None:
            self.writes += 1
            if self.writes == write:
                raise Interrupted(15)

    monkeypatch.setattr("ctrbench.train.checkpoint.hashlib.sha256", Interrupting)
    with pytest.raises(Interrupted):
        checkpoint.save(STATE)
