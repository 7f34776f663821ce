"""The acceptance tests of spec: production-9.10 on a sample of 200 million rows; tolerances include 4 standard errors.

All rows of a size: benchmarks/production_acceptance.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
import production_checks as acceptance
import pytest
from production_checks import Tally
from scipy.special import entr
from sklearn.metrics import roc_auc_score

from ctrbench.names import Column
from ctrbench.synthetic.philox import Floats
from ctrbench.synthetic.production.calibration import calibrate
from ctrbench.synthetic.production.generator import DOMAIN_INDEX, Production
from ctrbench.synthetic.production.spec import spec_of_size

RANGES, RANGE_ROWS = 16, 1 << 15


@pytest.fixture(scope="module")
def medium() -> Production:
    spec = spec_of_size("200m").model_copy(update={"calibration_rows": 1 << 19, "sequences": True})
    return Production(spec, calibrate(spec))


@pytest.fixture(scope="module")
def start(medium: Production) -> Floats:
    return acceptance.start_coefficients(medium, 0, 1 << 17)


@pytest.fixture(scope="module")
def parts(medium: Production, start: Floats) -> list[Tally]:
    """16 ranges of 32,768 rows, distributed over all days."""
    begins = [medium.spec.rows * i // RANGES for i in range(RANGES)]
    return [acceptance.tally(medium, begin, begin + RANGE_ROWS, start) for begin in begins]


def test_all_checks_of_one_pass_succeed(medium: Production, parts: Sequence[Tally], start: Floats) -> None:
    checks = acceptance.checks(medium, parts, start)
    assert len(checks) == 13
    assert [check for check in checks if not check.passed] == []


def test_a_wrong_base_rate_is_detected(medium: Production, parts: Sequence[Tally], start: Floats) -> None:
    constants = medium.constants.model_copy(update={"mu": str(float(medium.constants.mu) + 0.1)})
    wrong = [acceptance.tally(Production(medium.spec, constants), 0, 1 << 18, start)] * 2
    failed = [check.test for check in acceptance.checks(medium, wrong, start) if not check.passed]
    assert "2. mean p" in failed


def test_coefficients_are_the_square_roots_of_the_variances(parts: Sequence[Tally], start: Floats) -> None:
    sums = reduce(add, parts)
    coefficients, errors = acceptance.coefficients_of(sums, start)
    assert errors == pytest.approx(1 / np.sqrt(RANGES * RANGE_ROWS * 0.0444), rel=0.3)
    assert np.abs(coefficients - np.sqrt([0.26, 0.2, 0.2, 0.26, 0.03, 0.1, 0.15])).max() < 4 * errors.max()


def test_domains_per_bin_at_full_size(medium: Production, start: Floats) -> None:
    full = Production(spec_of_size("full"), medium.constants)
    parts = [acceptance.tally(full, begin, begin + 10_000, start) for begin in (0, 10**9)]
    check = next(check for check in acceptance.checks(full, parts, start) if "per bin" in check.test)
    assert check.measured == "[18, 127, 484, 1340, 3031]"
    assert check.passed


def test_no_behavior_happens_after_the_impression(medium: Production) -> None:
    check = acceptance.history_check(medium, medium.spec.rows - 50_000, medium.spec.rows)
    assert check.passed


def test_ladder_matches_normal_components(parts: Sequence[Tally]) -> None:
    sums = reduce(add, parts)
    assert np.abs(acceptance.ladder_auc(sums) - acceptance.EXPECTED_AUC).max() < 0.012
    assert np.abs(acceptance.ladder_within(sums)[1:] - acceptance.EXPECTED_WITHIN[1:]).max() < 0.012
    assert (np.diff(acceptance.ladder_logloss(sums)) < 0).all()


def test_binned_auc_and_logloss_equal_those_of_single_rows(medium: Production, start: Floats) -> None:
    sums = acceptance.tally(medium, 0, 20_000, start)
    columns = medium.rows(0, 20_000, [Column.PROBABILITY, DOMAIN_INDEX])
    p = columns[Column.PROBABILITY]
    both = np.repeat([1, 0], len(p)), np.tile(p, 2), np.concatenate([p, 1 - p])
    auc = roc_auc_score(both[0], both[1], sample_weight=both[2])
    assert acceptance.ladder_auc(sums)[-1] == pytest.approx(auc, abs=1e-5)
    assert acceptance.ladder_logloss(sums)[-1] == pytest.approx((entr(p) + entr(1 - p)).mean(), abs=1e-6)
