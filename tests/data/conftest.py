"""A table of twelve rows, small enough that the tests state every id, count and number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctrbench.data.card import DatasetCard

TRAIN = [
    # time, city, device, tags, price, click
    (1, "A", "m", "x|y", 1.0, 1),
    (2, "A", "w", "x", 2.0, 0),
    (3, "B", "m", "", 3.0, 0),
    (4, "A", "m", "y", None, 1),
    (5, "B", "w", "x|x", 4.0, 0),
    (6, "C", "m", "z", 5.0, 1),
    (7, "A", "w", "x|z", 6.0, 0),
    (8, "A", "m", "y", 7.0, 1),
]
DEV = [(9, "B", "m", "x|q", 8.0, 0), (10, "D", "w", "x", 9.0, 1)]
TEST = [(11, "C", "w", "y", 10.0, 0), (12, None, "m", "x", 11.0, 1)]
FILE_ORDER = [7, 1, 12, 3, 10, 5, 2, 9, 4, 11, 6, 8]
"""Times in the order of the file: not sorted."""

FIELDS: list[dict[str, Any]] = [
    {"name": "city", "role": "user"},
    {"name": "device", "role": "context"},
    {"name": "tags", "kind": "multi_valued", "role": "item"},
    {"name": "price", "kind": "numeric", "role": "item"},
]

MakeCard = Callable[..., DatasetCard]
CardOf = Callable[..., DatasetCard]


@pytest.fixture
def frame() -> pl.DataFrame:
    rows = {row[0]: row for row in TRAIN + DEV + TEST}
    names = ["time", "city", "device", "tags", "price", "click"]
    return pl.DataFrame([rows[time] for time in FILE_ORDER], schema=names, orient="row")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def card(tmp_path: Path, frame: pl.DataFrame) -> DatasetCard:
    frame.write_csv(tmp_path / "shop.csv")
    return _card_of(tmp_path / "shop.csv")


@pytest.fixture
def make_card(tmp_path: Path) -> MakeCard:
    """Write a frame or a text to a file and return its card; keywords change keys of the card."""

    def make(data: pl.DataFrame | str, *, file: str = "data.csv", **changes: object) -> DatasetCard:
        path = tmp_path / file
        if isinstance(data, str):
            path.write_text(data)
        elif path.suffix == ".parquet":
            data.write_parquet(path)
        else:
            data.write_csv(path)
        return _card_of(path, **changes)

    return make


@pytest.fixture(scope="session")
def card_of() -> CardOf:
    """Return the card of a file; keywords change keys of the card."""
    return _card_of


def _card_of(path: Path, **changes: object) -> DatasetCard:
    content: dict[str, object] = {
        "name": "shop",
        "title": "A shop",
        "path": str(path),
        "label": {"column": "click"},
        "timestamp": "time",
        "fields": FIELDS,
        "domain_sets": {"default": ["city", "device"], "city": ["city"]},
        "representative": "city",
    }
    return DatasetCard.model_validate(
        {key: value for key, value in (content | changes).items() if value is not None}
    )
