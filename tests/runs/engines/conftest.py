"""One run of AdaSparse on the small dataset of `home`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ctrbench.runs.grid import Run

sys.path.insert(0, str(Path(__file__).parent))

from engine_grid import grid


@pytest.fixture
def run(home: Path) -> Run:
    """One epoch of a small tower, seed 1."""
    (run,) = grid(home, seeds=(1,))
    return run
