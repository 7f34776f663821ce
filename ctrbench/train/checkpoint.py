"""Checkpoints: all that training needs to go on as if it had never stopped.

A checkpoint appears in one move, so a run killed while writing finds the one before; at a URL another machine finds it,
too. The tables are saved as they are, not brought up to date first: when a checkpoint is taken must not move a number.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch

from ctrbench.errors import CtrbenchError
from ctrbench.storage.files import Place, local_copy, replacing

FORMAT = 2
"""Raised when what a checkpoint holds changes; one of another format is not resumed from."""


def save_checkpoint(file: Place, state: dict[str, Any]) -> None:
    """Write a checkpoint in one move."""
    # Through a file object: torch's own writer would report a full disk as a RuntimeError.
    with replacing(file) as part, part.open("wb") as stream:
        torch.save({"format": FORMAT, **state}, stream)


def load_checkpoint(file: Place) -> dict[str, Any] | None:
    """Read a checkpoint; None when there is none, or when it cannot be used and training must start over."""
    try:
        with local_copy(file) as path:
            state = torch.load(path, weights_only=True, map_location="cpu")
    except CtrbenchError:
        # Out of reach is not gone: starting over would be the wrong answer.
        raise
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) and state.pop("format", None) == FORMAT else None
