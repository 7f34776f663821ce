"""A small prepared dataset for tests that make runs in processes of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctrbench.data.card import load_card
from ctrbench.data.prepare import prepare

CARD = """
name = "tiny"
title = "A tiny dataset"
path = "tiny.csv"
timestamp = "time"
representative = "shop"
label = { column = "click" }
domain_sets = { default = ["shop"] }
fields = [{ name = "shop" }, { name = "item" }]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small dataset, prepared in its folder `home`."""
    folder = tmp_path_factory.mktemp("engine")
    generator = np.random.default_rng(0)
    rows = 36_000
    frame = pl.DataFrame(
        {
            "time": np.arange(rows),
            "shop": generator.integers(0, 5, rows),
            "item": generator.integers(0, 300, rows),
            "click": generator.integers(0, 2, rows),
        }
    )
    frame.write_csv(folder / "tiny.csv")
    (folder / "tiny.toml").write_text(CARD, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTRBENCH_HOME", str(folder / "home"))
        patch.chdir(folder)
        prepare(load_card("tiny.toml"))
    return folder
