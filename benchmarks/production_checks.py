"""Acceptance tests of the Production-scale data (spec: production-9.10), computed in one pass over ranges of rows.

A `Tally` holds only sums and is additive, so ranges can be measured by any process in any order, in constant memory.
AUC and LogLoss are expected values under the true probabilities, without labels, from counts per bin of the score.
The logistic regression is fitted on a first range and then updated by one Newton step over all rows; the error of the
first fit enters squared. Tolerances are those of the specification plus four standard errors, estimated from the
differences between the ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit, logit

from ctrbench.names import Column
from ctrbench.synthetic.philox import Floats, Integers
from ctrbench.synthetic.production.behaviors import HISTORY_DAYS
from ctrbench.synthetic.production.calibration import part_weights
from ctrbench.synthetic.production.clicks import Component
from ctrbench.synthetic.production.distributions import DAY_SECONDS, bin_counts
from ctrbench.synthetic.production.generator import DOMAIN_INDEX, Production
from ctrbench.synthetic.production.truth import PARTS, V_DOMAIN, V_RESIDUAL

STEPS = ("domain level", "+ level", "+ taste", "+ structured", "+ idiosyncratic", "+ behaviors", "+ residual")
EXPECTED_AUC = (0.632, 0.674, 0.707, 0.742, 0.745, 0.757, 0.773)
EXPECTED_LOGLOSS = (0.1932, 0.1890, 0.1848, 0.1792, 0.1785, 0.1764, 0.1731)
"""AUC and LogLoss per step for normal components, by numerical integration (spec: production-9.6)."""
EXPECTED_WITHIN = (0.500, 0.618, 0.667, 0.703, 0.707, 0.725, 0.745)
EXPECTED_BINS = {5_000: [18, 127, 484, 1_340, 3_031], 5_040: [18, 128, 488, 1_350, 3_056]}
LEVEL_SD = math.sqrt(V_DOMAIN)
FITTED = (
    Component.DOMAIN,
    Component.LEVEL,
    Component.TASTE,
    Component.STRUCTURED,
    Component.IDIOSYNCRATIC,
    Component.BEHAVIOR,
    Component.RESIDUAL,
)
COLUMNS = (Column.LABEL, Column.PROBABILITY, DOMAIN_INDEX, *Component)
BINS, DOMAIN_BINS = 1 << 14, 1 << 8
LOW, HIGH = -14.0, 6.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of one acceptance test: expected and measured value, and the verdict."""

    test: str
    expected: str
    measured: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over rows; L steps of the ladder, D domains."""

    rows: Floats
    clicks: Floats
    probability: Floats
    variance: Floats
    """Σ p (1 - p)."""
    score_L2: Floats
    """Σ p and Σ (1 - p) per step and bin of the score (L, bins, 2)."""
    decile_3: Floats
    """Σ y, Σ p and Σ p (1 - p) per bin of the true logit (bins, 3)."""
    within_L2: Floats
    """Σ p and Σ (1 - p) per step, domain and coarse bin (L, D, bins, 2)."""
    level_3: Floats
    """Rows, Σ ℓ and Σ ℓ² of the logit without drift per domain (D, 3)."""
    gradient: Floats
    hessian: Floats

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            **{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        )


def tally(production: Production, start: int, stop: int, coefficients: Floats) -> Tally:
    """Measure a range of rows; the Newton step starts from `coefficients`, the intercept first."""
    columns = production.rows(start, stop, COLUMNS)
    p, y, domain = columns[Column.PROBABILITY], columns[Column.LABEL], columns[DOMAIN_INDEX]
    num_domains = len(production.domains.share)
    scores = ladder_scores(production, columns)
    level = logit(p) - columns[Component.DRIFT]
    gradient, hessian = _newton(columns, coefficients)
    return Tally(
        rows=np.array(float(len(p))),
        clicks=y.sum(dtype=np.float64),
        probability=p.sum(),
        variance=(p * (1 - p)).sum(),
        score_L2=np.stack([_bin_sums(_bin_index(score, BINS), BINS, p, 1 - p) for score in scores]),
        decile_3=_bin_sums(_bin_index(scores[-1], BINS), BINS, y, p, p * (1 - p)),
        within_L2=np.stack([_domain_bin_sums(score, domain, num_domains, p) for score in scores]),
        level_3=_bin_sums(domain, num_domains, np.ones_like(p), level, level**2),
        gradient=gradient,
        hessian=hessian,
    )


def ladder_scores(production: Production, columns: Mapping[str, Floats]) -> list[Floats]:
    """Return the known part of the logit after each step; the drift of the day is known from the first step on."""
    weights = dict(zip(PARTS, part_weights(production.spec), strict=True))
    score = float(production.constants.mu) + columns[Component.DRIFT]
    scores = []
    for part in FITTED:
        name = part.removeprefix("component_")
        fixed = {"domain": np.sqrt(V_DOMAIN), "residual": np.sqrt(V_RESIDUAL)}
        score = score + fixed.get(name, weights.get(name, 0.0)) * columns[part]
        scores.append(score)
    return scores


def start_coefficients(production: Production, start: int, stop: int) -> Floats:
    """Fit the logistic regression to a range of rows; return the intercept and one coefficient per component."""
    columns = production.rows(start, stop, COLUMNS)
    coefficients = np.zeros(1 + len(FITTED))
    coefficients[0] = logit(production.spec.click_rate)
    for _ in range(12):
        gradient, hessian = _newton(columns, coefficients)
        coefficients = coefficients + np.linalg.solve(hessian, gradient)
    return coefficients


def _newton(columns: Mapping[str, Floats], coefficients: Floats) -> tuple[Floats, Floats]:
    """Return gradient and information matrix of the log-likelihood; the coefficient of the drift is fixed at 1."""
    design = np.stack([np.ones(len(columns[Column.LABEL])), *(columns[component] for component in FITTED)])
    fitted = expit(coefficients @ design + columns[Component.DRIFT])
    weight = fitted * (1 - fitted)
    return design @ (columns[Column.LABEL] - fitted), (design * weight) @ design.T


def _bin_index(score: Floats, bins: int) -> Integers:
    share = (score - LOW) / (HIGH - LOW)
    return np.clip((share * bins).astype(np.int64), 0, bins - 1)


def _bin_sums(index: Integers, size: int, *columns: NDArray[Any]) -> Floats:
    return np.stack([np.bincount(index, column, minlength=size) for column in columns], axis=-1)


def _domain_bin_sums(score: Floats, domain: Integers, num_domains: int, p: Floats) -> Floats:
    index = domain * DOMAIN_BINS + _bin_index(score, DOMAIN_BINS)
    return _bin_sums(index, num_domains * DOMAIN_BINS, p, 1 - p).reshape(num_domains, DOMAIN_BINS, 2)


# --- statistics of a tally -----------------------------------------------------------------------------------------


def expected_auc(counts: Floats) -> NDArray[Any]:
    """Return the AUC of binned scores (…, bins, 2); ties count half, NaN where a class is absent."""
    positive, negative = counts[..., 0], counts[..., 1]
    below = np.cumsum(negative, axis=-1) - negative / 2
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    wins = (positive * below).sum(axis=-1)
    return np.asarray(np.divide(wins, pairs, out=np.full(np.shape(pairs), np.nan), where=pairs > 0))


def ladder_auc(sums: Tally) -> Floats:
    """Return the expected AUC of each step."""
    return np.asarray(expected_auc(sums.score_L2))


def ladder_logloss(sums: Tally) -> Floats:
    """Return the expected LogLoss of each step's calibrated score: the entropy of the mean p per bin."""
    rows = sums.score_L2.sum(axis=-1)
    mean = np.divide(sums.score_L2[..., 0], rows, out=np.zeros_like(rows), where=rows > 0)
    return np.asarray(((entr(mean) + entr(1 - mean)) * rows).sum(axis=-1) / rows.sum(axis=-1))


def ladder_within(sums: Tally) -> Floats:
    """Return the impression-weighted mean of the domains' expected AUC at each step."""
    auc, rows = expected_auc(sums.within_L2), sums.within_L2.sum(axis=(-1, -2))
    return np.asarray(np.nansum(auc * rows, axis=-1) / np.where(np.isnan(auc), 0.0, rows).sum(axis=-1))


def level_sd(sums: Tally) -> float:
    """Return the traffic-weighted std of the domain mean logits, corrected for the variance within domains."""
    rows, total, squares = sums.level_3.T
    is_observed = rows > 1
    rows, mean = rows[is_observed], total[is_observed] / rows[is_observed]
    noise = (squares[is_observed] / rows - mean**2) / (rows - 1)
    overall = (rows * mean).sum() / rows.sum()
    return float(np.sqrt((rows * ((mean - overall) ** 2 - noise)).sum() / rows.sum()))


def coefficients_of(sums: Tally, start: Floats) -> tuple[Floats, Floats]:
    """Return the components' coefficients and their standard errors."""
    inverse = np.linalg.inv(sums.hessian)
    return (start + inverse @ sums.gradient)[1:], np.sqrt(np.diag(inverse))[1:]


def decile_errors(sums: Tally) -> Floats:
    """Return (mean y - mean p) in standard errors, per decile of p and, as last element, over all rows."""
    rows = sums.score_L2[-1].sum(axis=-1)
    middle = (np.cumsum(rows) - rows / 2) / rows.sum()
    decile = np.minimum(9, (10 * middle).astype(np.int64))
    groups = np.stack([np.bincount(decile, column, minlength=10) for column in sums.decile_3.T])
    groups = np.concatenate([groups, groups.sum(axis=1, keepdims=True)], axis=1)
    return np.asarray((groups[0] - groups[1]) / np.sqrt(groups[2]))


def standard_error(parts: Sequence[Tally], statistic: Callable[[Tally], float]) -> float:
    """Return the standard error of a statistic of the pooled parts, from its std over the parts."""
    return float(np.std([statistic(part) for part in parts], ddof=1) / np.sqrt(len(parts)))


# --- the checks ----------------------------------------------------------------------------------------------------


def checks(production: Production, parts: Sequence[Tally], start: Floats) -> list[Check]:
    """Return tests 2, 3, 4 and 6 of spec: production-9.10, which need one pass over the rows."""
    sums = reduce(add, parts)
    return [
        *_size_checks(production, sums),
        *_oracle_checks(parts, sums),
        _decile_check(sums),
        _level_check(parts, sums),
        *_coefficient_checks(production, sums, start),
    ]


def _size_checks(production: Production, sums: Tally) -> Iterator[Check]:
    # The standard error of the mean of p comes from the measured rows and from the rows of the calibration.
    rows, spec = float(sums.rows), production.spec
    error = float(np.sqrt(_variance_of_p(sums) * (1 / rows + 1 / spec.calibration_rows)))
    yield _near("2. mean p", spec.click_rate, float(sums.probability) / rows, 0.0005 + 4 * error)
    domains = production.domains
    counts = bin_counts(domains.share[~domains.is_reserved])
    expected = EXPECTED_BINS.get(production.spec.domains)
    if expected is not None and not production.spec.long_tail:
        yield Check(
            test="2. domains per bin",
            expected=str(expected),
            measured=str(counts),
            passed=expected == counts,
        )


def _variance_of_p(sums: Tally) -> float:
    mean = sums.probability / sums.rows
    return float((sums.probability - sums.variance) / sums.rows - mean**2)


def _oracle_checks(parts: Sequence[Tally], sums: Tally) -> Iterator[Check]:
    auc_error = standard_error(parts, lambda part: ladder_auc(part)[-1])
    loss_error = standard_error(parts, lambda part: ladder_logloss(part)[-1])
    yield _near("2. AUC*", EXPECTED_AUC[-1], ladder_auc(sums)[-1], 0.006 + 4 * auc_error)
    yield _near("2. LL*", EXPECTED_LOGLOSS[-1], ladder_logloss(sums)[-1], 0.002 + 4 * loss_error)


def _decile_check(sums: Tally) -> Check:
    worst = float(np.abs(decile_errors(sums)).max())
    test = "3. mean y against mean p, overall and per decile of p"
    return Check(test=test, expected="< 4 se", measured=f"{worst:.2f} se at most", passed=worst < 4)


def _level_check(parts: Sequence[Tally], sums: Tally) -> Check:
    error = standard_error(parts, level_sd)
    return _near("4. std of the domain levels", LEVEL_SD, level_sd(sums), 0.01 + 4 * error)


def _coefficient_checks(production: Production, sums: Tally, start: Floats) -> Iterator[Check]:
    coefficients, errors = coefficients_of(sums, start)
    weights = part_weights(production.spec)
    expected = [np.sqrt(V_DOMAIN), *weights, np.sqrt(V_RESIDUAL)]
    for part, value, measured, error in zip(FITTED, expected, coefficients, errors, strict=True):
        yield _near(f"6. coefficient of {part}", value, measured, max(0.02 * value, 4 * error))


def _near(test: str, expected: float, measured: float, tolerance: float) -> Check:
    return Check(
        test=test,
        expected=f"{expected:.5f} ± {tolerance:.5f}",
        measured=f"{measured:.5f}",
        passed=bool(abs(measured - expected) <= tolerance),
    )


def history_check(production: Production, start: int, stop: int) -> Check:
    """Return test 5 for a range of rows: no behavior happens after the impression.

    Behavior s of a user with rate λ happens (s + 1) / λ days after the history begins. Features of users and items
    are constant over all days, hence known before the first day.
    """
    block = production.block(start, stop)
    day, second = block.times
    last = block.slots / np.exp(block.log_rate) - HISTORY_DAYS
    late = int((last > (day + second / DAY_SECONDS) + 1e-9).sum())
    return Check(test="5. behaviors after the impression", expected="0", measured=str(late), passed=late == 0)
