"""Slopes of formulas, for comparison with gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Slope = Callable[[Callable[[np.ndarray], float], np.ndarray], np.ndarray]


@pytest.fixture
def slope() -> Slope:
    """Differentiate a float64 function of an array by each of its numbers, by central differences."""

    def differentiate(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
        found = np.zeros_like(at)
        for place in np.ndindex(*at.shape):
            step = np.zeros_like(at)
            step[place] = 1e-6
            found[place] = (function(at + step) - function(at - step)) / 2e-6
        return found

    return differentiate
