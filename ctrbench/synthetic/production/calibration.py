"""Calibration constants of the true logit, from one Monte-Carlo pass over separate rows (spec: production-9.6).

Components are centered per scenario, so that they leave the level of a scenario unchanged, and scaled to variance 1.
Bisection then finds μ_0 such that the mean click probability is the click rate of the spec. Constants are stored as
decimal strings, so that all processes use identical numbers. The residual is standard normal by construction and domain
levels are scaled with the exact traffic, so neither needs constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.optimize import bisect
from scipy.special import expit

from ctrbench.synthetic.philox import Floats, Integers
from ctrbench.synthetic.production.block import BLOCK_ROWS, CALIBRATION, Block
from ctrbench.synthetic.production.spec import NUM_SCENARIOS, ProductionSpec
from ctrbench.synthetic.production.truth import PARTS, V_DOMAIN, V_RESIDUAL, VARIANCES
from ctrbench.synthetic.production.world import World, make_world

MU_RANGE = (-12.0, 0.0)
MIN_SCENARIO_ROWS = 1_000
"""Calibration rows that a scenario needs for separate means."""


class PartScale(BaseModel):
    """Constants that standardize one component: (raw value - mean of the scenario) / sd."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    means: tuple[str, ...]
    """Mean per scenario; the overall mean for scenarios with fewer than `MIN_SCENARIO_ROWS` rows."""
    sd: str


class Constants(BaseModel):
    """Calibration constants of one spec, as decimal strings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["production constants"] = "production constants"
    mu: str
    scales: dict[str, PartScale]

    def mean_table(self) -> Floats:
        """Return the means of the components (components, scenarios)."""
        return np.array([[float(mean) for mean in self.scales[part].means] for part in PARTS])

    def sd_table(self) -> Floats:
        """Return the standard deviations of the components (components)."""
        return np.array([float(self.scales[part].sd) for part in PARTS])


def part_weights(spec: ProductionSpec) -> Floats:
    """Return the weights sqrt(v_j) of the components; null data have weight 0 for all but the level."""
    is_kept = [part == "level" or not spec.null for part in PARTS]
    return np.sqrt(VARIANCES) * is_kept


def calibrate(spec: ProductionSpec) -> Constants:
    """Return the constants of a spec; takes seconds for 2^22 rows and the memory of six numbers per row."""
    world = make_world(spec)
    sample = _Sample(world)
    means, sds = _scales_of_parts(sample)
    logit = sample.rest
    for part, mean, sd, weight in zip(sample.parts, means, sds, part_weights(spec), strict=True):
        logit += weight / sd * (part - mean[sample.scenario])
    mu = bisect(lambda mu: float(np.mean(expit(mu + logit)) - spec.click_rate), *MU_RANGE, xtol=1e-13)
    scales = {
        part: PartScale(means=tuple(map(_to_decimal, means[i])), sd=_to_decimal(sds[i]))
        for i, part in enumerate(PARTS)
    }
    return Constants(mu=_to_decimal(mu), scales=scales)


def _to_decimal(value: float) -> str:
    return f"{value:.12g}"


class _Sample:
    """Calibration rows: raw components, scenario, and the remaining terms of the logit."""

    def __init__(self, world: World) -> None:
        rows = world.spec.calibration_rows
        self.parts = np.empty((len(PARTS), rows))
        self.scenario: Integers = np.empty(rows, dtype=np.int8)
        self.rest = np.empty(rows)
        for block in _calibration_blocks(world):
            rows_of_block = slice(block.start, block.stop)
            self.parts[:, rows_of_block] = block.parts
            self.scenario[rows_of_block] = block.scenario
            drift = world.truth.drift_SD[block.scenario, block.times[0]]
            level = np.sqrt(V_DOMAIN) * world.truth.level_D[block.domain]
            self.rest[rows_of_block] = level + drift + np.sqrt(V_RESIDUAL) * block.residual


def _calibration_blocks(world: World) -> Iterator[Block]:
    rows = world.spec.calibration_rows
    for start in range(0, rows, BLOCK_ROWS):
        yield Block(world, start, min(start + BLOCK_ROWS, rows), rows, CALIBRATION)


def _scales_of_parts(sample: _Sample) -> tuple[Floats, Floats]:
    """Return means per scenario (components, scenarios) and standard deviations (components)."""
    counts = np.bincount(sample.scenario, minlength=NUM_SCENARIOS)
    means = np.empty((len(PARTS), NUM_SCENARIOS))
    sds = np.empty(len(PARTS))
    for i, part in enumerate(sample.parts):
        sums = np.bincount(sample.scenario, part, minlength=NUM_SCENARIOS)
        pooled = np.full(NUM_SCENARIOS, part.mean())
        means[i] = np.divide(sums, counts, out=pooled, where=counts >= MIN_SCENARIO_ROWS)
        # Data without sequences have no behavior component: it is 0 in all rows.
        sds[i] = np.sqrt(np.mean((part - means[i][sample.scenario]) ** 2)) or 1.0
    return means, sds
