"""The constants of the true logit, from one Monte-Carlo pass over rows of a stream of their own (spec: production-9.6).

Parts are centred by scenario, so that none moves a scenario's level, and scaled to variance 1; μ_0 is then found by
bisection, so that the mean click probability is 0.0127. Constants are decimal strings: all processes read the
same numbers, and none computes them twice. The residual is a standard normal by construction and domain levels
are scaled by the exact traffic, so neither has constants here.
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
from ctrbench.synthetic.production.truth import BASE_RATE, PARTS, V_DOMAIN, V_RESIDUAL, VARIANCES
from ctrbench.synthetic.production.world import World, make_world

MU_RANGE = (-12.0, 0.0)
MIN_SCENARIO_ROWS = 1_000
"""Of the pass, for a scenario to have means of its own."""


class PartScale(BaseModel):
    """How a raw part is made standard: (part - mean of the scenario) / sd."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    means: tuple[str, ...]
    """By scenario; that of all rows where a scenario has next to none."""
    sd: str


class Constants(BaseModel):
    """The calibration of one spec, in decimal strings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["production constants"] = "production constants"
    mu: str
    scales: dict[str, PartScale]

    def mean_table(self) -> Floats:
        """Return the parts' means (parts, scenarios)."""
        return np.array([[float(mean) for mean in self.scales[part].means] for part in PARTS])

    def sd_table(self) -> Floats:
        """Return the parts' standard deviations."""
        return np.array([float(self.scales[part].sd) for part in PARTS])


def part_weights(spec: ProductionSpec) -> Floats:
    """Return sqrt(v_j) of the parts; those of domain and content are not in null data."""
    is_kept = [not (spec.null and part in ("structured", "idiosyncratic")) for part in PARTS]
    return np.sqrt(VARIANCES) * is_kept


def calibrate(spec: ProductionSpec) -> Constants:
    """Return the constants of a spec; some seconds for 2^22 rows, memory for six numbers each."""
    world = make_world(spec)
    sample = _Sample(world)
    means, sds = _scales(sample)
    logit = sample.rest
    for part, mean, sd, weight in zip(sample.parts, means, sds, part_weights(spec), strict=True):
        logit += weight / sd * (part - mean[sample.scenario])
    mu = bisect(lambda mu: float(np.mean(expit(mu + logit)) - BASE_RATE), *MU_RANGE, xtol=1e-13)
    scales = {
        part: PartScale(means=tuple(map(_decimal, means[place])), sd=_decimal(sds[place]))
        for place, part in enumerate(PARTS)
    }
    return Constants(mu=_decimal(mu), scales=scales)


def _decimal(value: float) -> str:
    return f"{value:.12g}"


class _Sample:
    """The rows of the pass: raw parts, scenario, and the rest of the logit."""

    def __init__(self, world: World) -> None:
        rows = world.spec.calibration_rows
        self.parts = np.empty((len(PARTS), rows))
        self.scenario: Integers = np.empty(rows, dtype=np.int8)
        self.rest = np.empty(rows)
        for block in _blocks(world):
            place = slice(block.start, block.stop)
            self.parts[:, place] = block.parts
            self.scenario[place] = block.scenario
            drift = world.truth.drift_SD[block.scenario, block.times[0]]
            level = np.sqrt(V_DOMAIN) * world.truth.level_D[block.domain]
            self.rest[place] = level + drift + np.sqrt(V_RESIDUAL) * block.residual


def _blocks(world: World) -> Iterator[Block]:
    rows = world.spec.calibration_rows
    for start in range(0, rows, BLOCK_ROWS):
        yield Block(world, start, min(start + BLOCK_ROWS, rows), rows, CALIBRATION)


def _scales(sample: _Sample) -> tuple[Floats, Floats]:
    """Return means by scenario (parts, scenarios) and deviations from them (parts)."""
    counts = np.bincount(sample.scenario, minlength=NUM_SCENARIOS)
    means = np.empty((len(PARTS), NUM_SCENARIOS))
    sds = np.empty(len(PARTS))
    for place, part in enumerate(sample.parts):
        sums = np.bincount(sample.scenario, part, minlength=NUM_SCENARIOS)
        pooled = np.full(NUM_SCENARIOS, part.mean())
        means[place] = np.divide(sums, counts, out=pooled, where=counts >= MIN_SCENARIO_ROWS)
        sds[place] = np.sqrt(np.mean((part - means[place][sample.scenario]) ** 2))
    return means, sds
