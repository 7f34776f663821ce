"""Checkpoints: all state that training needs to resume as if it had never stopped.

A checkpoint is replaced atomically, so a run killed while writing still finds the previous one. It ends with the sha256
of everything before, since neither torch nor the zip format notices a changed bit; a checkpoint whose digest does not
fit is not used. The optimizer's tables are saved without applying their deferred updates first: the time of a
checkpoint must not change any result.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from ctrbench.errors import CtrbenchError
from ctrbench.storage.files import Location, local_copy, remove_file, replacing

FORMAT = 3
"""Version of the contents; training starts over from a checkpoint of another version."""
DIGEST_BYTES = hashlib.sha256().digest_size


class CheckpointMismatchError(Exception):
    """An intact checkpoint does not fit the model or the learner, so training must start over with new objects."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one run."""

    file: Location
    run: str = ""
    """Digest of the run's key; the checkpoint of another run is not used."""

    def save(self, state: dict[str, Any]) -> None:
        """Write the state atomically."""
        # Through a file object, because torch's own writer reports a full disk as a RuntimeError.
        with replacing(self.file) as part, part.open("wb") as stream:
            writer = _HashingWriter(stream)
            try:
                torch.save({"format": FORMAT, "run": self.run, **state}, writer)  # type: ignore[arg-type]
            except RuntimeError:
                if writer.error is not None:
                    # Torch hides the cause: an error of writing, or a signal.
                    raise writer.error from None
                raise
            stream.write(writer.sha256.digest())

    def load(self) -> dict[str, Any] | None:
        """Return the state; None if the file is missing, damaged, of another format or of another run.

        Raises `CtrbenchError` if the location cannot be reached.
        """
        try:
            with local_copy(self.file) as path, path.open("rb") as stream:
                if not _is_intact(stream):
                    return None
                stream.seek(0)
                state = torch.load(stream, weights_only=True, map_location="cpu")
        except (CtrbenchError, MemoryError):
            # An unreachable checkpoint may still exist, so training must not start over.
            raise
        except Exception:  # noqa: BLE001  # the reader of a foreign file may raise anything
            return None
        is_own = isinstance(state, dict) and state.pop("format", None) == FORMAT
        return state if is_own and state.pop("run", None) == self.run else None

    def remove(self) -> None:
        """Remove the file if it exists."""
        remove_file(self.file)


class _HashingWriter:
    """A file object to write to that computes the sha256 of everything written."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.sha256 = stream, hashlib.sha256()
        self.error: BaseException | None = None
        """Error of the last write, or the signal that interrupted it."""

    def write(self, content: bytes) -> int:
        """Write and hash some bytes."""
        try:
            self.sha256.update(content)
            return self.stream.write(content)
        except BaseException as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self.stream.flush()


def _is_intact(stream: BinaryIO) -> bool:
    """Return whether the last bytes of a file are the sha256 of all bytes before them."""
    remaining = stream.seek(0, 2) - DIGEST_BYTES
    stream.seek(0)
    sha256 = hashlib.sha256()
    while remaining > 0 and (block := stream.read(min(remaining, 1 << 20))):
        sha256.update(block)
        remaining -= len(block)
    return stream.read() == sha256.digest()
