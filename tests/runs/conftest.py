"""Small prepared datasets and a store for tests that make runs, and a method for those that kill them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.runs.store import RunStore

STOPPING = '''
"""AdaSparse that waits after 30 steps while a file is there, so that what kills it comes in its midst."""

import time
from pathlib import Path

from ctrbench.extend import Learner
from ctrbench.methods.adasparse import AdaSparse


class Waiting(Learner):
    def step(self, model, optimizer, batch):
        while optimizer.steps == 30 and Path({file!r}).exists():
            time.sleep(0.01)
        return super().step(model, optimizer, batch)


class Stopping(AdaSparse):
    def learner(self):
        return Waiting()
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, write_tiny: Callable[..., DatasetCard]) -> Path:
    """A folder with a small dataset, prepared in its folder `home`, and the file of a method, `stopping.py`."""
    folder = tmp_path_factory.mktemp("engine")
    generator = np.random.default_rng(0)
    rows = 36_000
    columns = {
        "time": np.arange(rows),
        "shop": generator.integers(0, 5, rows),
        "item": generator.integers(0, 300, rows),
        "click": generator.integers(0, 2, rows),
    }
    prepare(write_tiny(folder, columns), home=folder / "home")
    (folder / "stopping.py").write_text(STOPPING.format(file=str(folder / "stop")), encoding="utf-8")
    return folder


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


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A store of its own, next to the dataset."""
    return RunStore(results=tmp_path / "results", home=tmp_path / "home")
