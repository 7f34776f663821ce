"""Small prepared datasets and a store for tests that make runs, and a method for those that kill them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ctrbench.data.card import DatasetCard


@pytest.fixture
def stop(home: Path) -> Iterator[Path]:
    """A file; while it is there, runs of the method `stopping.py` wait in their midst."""
    file = home / "stop"
    file.touch()
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    """Wait until a condition holds."""

    def wait(condition: Callable[[], object], seconds: float = 120.0) -> None:
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit, "nothing happened"
            time.sleep(0.01)

    return wait


@pytest.fixture
def card(tmp_path: Path, write_tiny: Callable[..., DatasetCard]) -> DatasetCard:
    """A dataset of 3000 rows, 2000 of them for training, whose shops differ; not prepared."""
    generator = np.random.default_rng(0)
    rows = 3000
    shop = generator.integers(0, 4, rows)
    click = (generator.random(rows) < 0.2 + 0.15 * shop).astype(int)
    columns = {"time": np.arange(rows), "shop": shop, "item": generator.integers(0, 30, rows), "click": click}
    return write_tiny(tmp_path, columns)
