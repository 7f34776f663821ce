"""Makes the scripts of `benchmarks/` importable, and provides a record whose ratios are easy to compute."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

MEASURED = {
    "machine": {"cpu": "A processor", "threads": 2},
    "versions": {"fuxictr": "2.3.10"},
    "commit": "0123456789abcdef",
    "rounds": 5,
    "seconds": 2.5,
    "date": "2026-01-31T12:00:00+00:00",
}


def case(rows: list[int], **more: object) -> dict[str, Any]:
    return {"rows": rows, "seconds": [1.0] * len(rows), "parameters": 7_000, **more}


@pytest.fixture
def record() -> dict[str, Any]:
    """`dnn-256`: ours 8, 9 and 6 times as fast; one peer failed. `cli`: 0.2 and 0.7 s."""
    dnn = {
        "ctrbench": case([80_000, 90_000, 60_000]),
        "FuxiCTR": case([10_000, 10_000, 10_000]),
        "DeepCTR-Torch": {"error": "it was out of order"},
    }
    cli = {
        "ctrbench --help": {"rows": [1], "seconds": [0.2], "peak_bytes": [1]},
        "ctrbench list methods": {"rows": [1], "seconds": [0.7], "peak_bytes": [1]},
    }
    return {
        "schema": 1,
        "contests": {
            "dnn-256": {"measured": MEASURED, "cases": dnn},
            "cli": {"measured": MEASURED, "cases": cli},
        },
    }
