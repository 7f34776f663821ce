from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctrbench.plugins import inspection
from ctrbench.plugins.inspection import GateSite, Inspection

SEEN = Inspection(
    domain_D=np.array([1, 4]),
    rows_D=np.array([20, 2]),
    sites=(
        GateSite(stage="tower0", kept_DN=np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]], dtype=np.float32)),
        GateSite(stage="head", kept_DN=np.array([[0.25], [1.0]], dtype=np.float32)),
    ),
    predictions="digest",
)


def test_the_example_runs() -> None:
    assert doctest.testmod(inspection).failed == 0


def test_an_inspection_is_restored_from_its_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "inspection.npz", **SEEN.arrays())  # type: ignore[arg-type]
    with np.load(tmp_path / "inspection.npz") as arrays:
        restored = Inspection.from_arrays(arrays)
    assert restored.stages == ("tower0", "head")
    assert restored.predictions == "digest"
    assert {name: array.tolist() for name, array in restored.arrays().items()} == {
        name: array.tolist() for name, array in SEEN.arrays().items()
    }


def test_a_stage_without_a_gate_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        SEEN.site("cross")


def test_an_inspection_without_gates_is_restored() -> None:
    assert Inspection.from_arrays(replace(SEEN, sites=()).arrays()).sites == ()
