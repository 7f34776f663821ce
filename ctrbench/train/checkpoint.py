"""Checkpoints: all that training needs to go on as if it had never stopped.

A checkpoint is written to a temporary name and renamed, so a run killed while writing finds the one before. The tables
are saved as they are, not brought up to date first: when a checkpoint is taken must not move a number.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ctrbench.files import replacing

FORMAT = 2
"""Raised when what a checkpoint holds changes; one of another format is not resumed from."""


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in one move."""
    # Through a file object: torch's own writer would report a full disk as a RuntimeError.
    with replacing(file) as part, part.open("wb") as stream:
        torch.save({"format": FORMAT, **state}, stream)


def load_checkpoint(file: Path) -> dict[str, Any] | None:
    """Read a checkpoint; None when there is none, or when it cannot be used and training must start over."""
    if not file.exists():
        return None
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) and state.pop("format", None) == FORMAT else None
