from collections.abc import Callable

import numpy as np
import pytest

from ctrbench.names import Column
from ctrbench.synthetic.production.calibration import Constants, calibrate
from ctrbench.synthetic.production.generator import Production


def test_constants_are_decimal_strings_and_survive_json(unit: Production) -> None:
    text = unit.constants.model_dump_json()
    assert Constants.model_validate_json(text) == unit.constants
    assert f'"mu":"{float(unit.constants.mu):.12g}"' in text


def test_calibration_is_deterministic(unit: Production) -> None:
    assert calibrate(unit.spec) == unit.constants


@pytest.mark.parametrize("options", [{}, {"null": True}, {"interaction": "tree"}, {"click_rate": 0.0127}])
def test_mean_probability_is_the_click_rate(
    make: Callable[..., Production], options: dict[str, object]
) -> None:
    production = make(**options)
    p = production.rows(0, production.spec.rows, [Column.PROBABILITY])[Column.PROBABILITY]
    error = p.std() * np.sqrt(1 / len(p) + 1 / production.spec.calibration_rows)
    # 5 instead of 4 errors: users repeat, and the calibration excludes reserved tuples.
    assert abs(p.mean() - production.spec.click_rate) < 5 * error


def test_calibration_rows_differ_from_data_rows(unit: Production) -> None:
    block = unit.block(0, 1_000)
    other = type(block)(block.world, 0, 1_000, block.num_rows, 1, constants=block.constants)
    assert (block.domain == other.domain).mean() < 0.5
    assert (block.residual == other.residual).mean() < 0.1
