"""One run of AdaSparse on the small dataset of `home`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctrbench.data.prepared import open_prepared
from ctrbench.runs.grid import Run, make_config, make_grid


@pytest.fixture
def run(home: Path) -> Run:
    """One epoch of a small tower, seed 1."""
    (run,) = make_grid(
        open_prepared("tiny", home / "home"),
        methods=["adasparse"],
        backbones=["dnn[hidden=8-4]"],
        seeds=[1],
        domain_set="default",
        indicator=None,
        config=make_config(epochs=1, batch_size=400),
    )
    return run
