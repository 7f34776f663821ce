"""A CSV of the known shape, and what is prepared of it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared
from ctrbench.synthetic.click_log import BASE_RATE, field_sizes, synthetic_ids

ROWS = 150_000


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> DatasetCard:
    """150,000 rows in a CSV: a time, a label and 23 fields of 200,808 ids in all, the first of 300 domains."""
    file = tmp_path_factory.mktemp("raw") / "clicks.csv"
    ids_BF = synthetic_ids(ROWS, field_sizes(), seed=0)
    names = [f"field{place}" for place in range(ids_BF.shape[1])]
    label_B = np.random.default_rng(0).random(ROWS) < BASE_RATE
    fixed = {"time": np.arange(ROWS), "click": label_B.astype(np.int8)}
    pl.DataFrame(fixed | dict(zip(names, ids_BF.T, strict=True))).write_csv(file)
    return DatasetCard.model_validate(
        {
            "name": "clicks",
            "title": "Synthetic clicks",
            "path": str(file),
            "timestamp": "time",
            "label": {"column": "click"},
            "representative": names[0],
            "domain_sets": {"default": names[:1]},
            "fields": [{"name": name} for name in names],
        }
    )


@pytest.fixture(scope="session")
def prepared(card: DatasetCard, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The same, prepared: 100,000 training rows."""
    return prepare(card, home=tmp_path_factory.mktemp("home"))
