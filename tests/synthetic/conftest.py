"""Small Production-scale datasets shared by several tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from ctrbench.synthetic.production.calibration import calibrate
from ctrbench.synthetic.production.clicks import Component
from ctrbench.synthetic.production.generator import DOMAIN_INDEX, LEVELS, Production
from ctrbench.synthetic.production.spec import ProductionSpec, spec_of_size

Make = Callable[..., Production]


@pytest.fixture(scope="session")
def make() -> Make:
    """Return a function that builds the size of 200,000 rows with given options, calibrated on few rows."""

    @cache
    def build(**options: object) -> Production:
        content = spec_of_size("200k").model_dump() | {"calibration_rows": 1 << 16} | options
        spec = ProductionSpec.model_validate(content)
        return Production(spec, calibrate(spec))

    return build


@pytest.fixture(scope="session")
def unit(make: Make) -> Production:
    return make()


@pytest.fixture(scope="session")
def columns(unit: Production) -> dict[str, np.ndarray]:
    """All columns of the 200,000 rows, with the components of the logit and the levels."""
    return unit.rows(0, unit.spec.rows, [*unit.columns, *Component, DOMAIN_INDEX, LEVELS])
