"""Checkpoints: all state that training needs to resume as if it had never stopped.

A checkpoint is replaced atomically, so a run killed while writing still finds the previous one. The optimizer's tables
are saved without applying their deferred updates first: the time of a checkpoint must not change any result.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch

from ctrbench.errors import CtrbenchError
from ctrbench.storage.files import Location, local_copy, replacing

FORMAT = 2
"""Version of the contents; training starts over from a checkpoint of another version."""


def save_checkpoint(file: Location, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    # Through a file object, because torch's own writer reports a full disk as a RuntimeError.
    with replacing(file) as part, part.open("wb") as stream:
        torch.save({"format": FORMAT, **state}, stream)


def load_checkpoint(file: Location) -> dict[str, Any] | None:
    """Return the state in a checkpoint; None if the file is missing, damaged or of another format.

    Raises `CtrbenchError` if the location cannot be reached.
    """
    try:
        with local_copy(file) as path:
            state = torch.load(path, weights_only=True, map_location="cpu")
    except CtrbenchError:
        # An unreachable checkpoint may still exist, so training must not start over.
        raise
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) and state.pop("format", None) == FORMAT else None
