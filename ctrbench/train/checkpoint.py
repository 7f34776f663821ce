"""Checkpoints: all that training needs to go on as if it had never stopped.

A checkpoint is written to a temporary name and renamed, so a run killed while writing finds the one before. The tables
are saved as they are, not brought up to date first: when a checkpoint is taken must not move a number.
"""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ctrbench.errors import DataError


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        torch.save(state, part)
        part.replace(file)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        # torch reports a full disk as a RuntimeError of its archive writer.
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            raise
        raise DataError(
            "a checkpoint could not be written",
            value=f"{file}: {error}",
            remedy="free space, or set CTRBENCH_HOME",
        ) from error


def load_checkpoint(file: Path) -> dict[str, Any] | None:
    """Read a checkpoint; None when there is none, or when it cannot be read and training must start over."""
    if not file.exists():
        return None
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) else None
