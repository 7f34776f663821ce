from collections.abc import Callable

import numpy as np
import pytest

from ctrbench.names import Column
from ctrbench.synthetic.production.calibration import Constants, calibrate
from ctrbench.synthetic.production.generator import Production
from ctrbench.synthetic.production.spec import preset


def test_constants_are_decimal_strings_that_come_back_from_json(unit: Production) -> None:
    text = unit.constants.model_dump_json()
    assert Constants.model_validate_json(text) == unit.constants
    assert f'"mu":"{float(unit.constants.mu):.12g}"' in text


def test_calibration_is_the_same_each_time(unit: Production) -> None:
    assert calibrate(unit.spec) == unit.constants


@pytest.mark.parametrize("options", [{}, {"null": True}, {"interaction": "tree"}, {"seed": 7}])
def test_rows_click_at_the_base_rate(make: Callable[..., Production], options: dict[str, object]) -> None:
    production = make(**options)
    p = production.rows(0, production.spec.rows, [Column.PROBABILITY])[Column.PROBABILITY]
    error = p.std() * np.sqrt(1 / len(p) + 1 / production.spec.calibration_rows)
    # Users repeat, and reserved tuples were not calibrated.
    assert abs(p.mean() - 0.0127) < 5 * error


def test_the_pass_reads_other_draws_than_the_data(unit: Production) -> None:
    block = unit.block(0, 1_000)
    other = type(block)(block.world, 0, 1_000, block.num_rows, 1, constants=block.constants)
    assert (block.domain == other.domain).mean() < 0.5
    assert (block.residual == other.residual).mean() < 0.1


def test_the_whole_logit_of_medium_data_is_about_the_prototypes() -> None:
    spec = preset("medium").model_copy(update={"calibration_rows": 1 << 18})
    assert float(calibrate(spec).mu) == pytest.approx(-4.93, abs=0.06)
