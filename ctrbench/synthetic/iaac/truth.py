"""True click probability of the twin: components of the logit, calibration to the rates of the days, expected AUC.

The logit of a row is the level of its day plus the standardized components of `world.VARIANCES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctrbench.synthetic.expected import expected_auc
from ctrbench.synthetic.iaac.draws import draw
from ctrbench.synthetic.iaac.marginals import DAYS, Day, Floats
from ctrbench.synthetic.iaac.rows import Rows, cumulative_days, draw_rows
from ctrbench.synthetic.iaac.world import VARIANCES, World

CALIBRATION_ROWS = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Calibration: means and scales of the components of the logit, and the level of each day."""

    means: dict[str, float]
    scales: dict[str, float]
    days: Floats


def _raw_components(world: World, rows: Rows) -> dict[str, Floats]:
    """Return the raw components of the logit, in the order of `VARIANCES`."""
    users, items = world.users, world.items
    flat = users.cell[rows.user] * len(items.shares) + rows.item
    context = world.pages[rows.page] + world.hours[rows.second // 3600] + 0.5 * rows.is_match
    return {
        "item": items.quality[rows.item],
        "user": users.level[rows.user],
        "context": context,
        "taste": np.einsum("ij,ij->i", users.taste[rows.user], items.taste[rows.item]),
        "structured": np.take(world.structured, flat).astype(np.float64),
        "idiosyncratic": np.take(world.idiosyncratic, flat).astype(np.float64),
        "residual": rows.residual,
    }


def components(world: World, truth: Truth, rows: Rows) -> dict[str, Floats]:
    """Return the components of the logit with the variances of `VARIANCES`."""
    raw = _raw_components(world, rows)
    return {name: (part - truth.means[name]) * truth.scales[name] for name, part in raw.items()}


def true_logit(world: World, truth: Truth, rows: Rows) -> Floats:
    """Return the true logit of each row."""
    return sum(components(world, truth, rows).values(), truth.days[rows.day])


def calibrate(world: World, seed: int) -> Truth:
    """Estimate means and scales on a sample of rows, then solve for the level that gives each day its label rate."""
    rows = draw_rows(world, CALIBRATION_ROWS, cumulative_days(DAYS), draw(seed, "calibration"))
    raw = _raw_components(world, rows)
    truth = Truth(
        means={name: float(part.mean()) for name, part in raw.items()},
        scales={name: float(np.sqrt(VARIANCES[name]) / part.std()) for name, part in raw.items()},
        days=np.zeros(len(DAYS)),
    )
    levels = [_day_level(world, truth, rows, day) for day in DAYS]
    return Truth(means=truth.means, scales=truth.scales, days=np.array(levels))


def _day_level(world: World, truth: Truth, rows: Rows, day: Day) -> float:
    """Solve mean(sigmoid(level + logit)) = rate by Newton's method, over rows within the hours of the day."""
    logit = true_logit(world, truth, rows)[rows.second < day.hours * 3600]
    level = float(np.log(day.rate / (1 - day.rate)))
    for _ in range(12):
        probability = sigmoid(level + logit)
        level -= float((probability.mean() - day.rate) / (probability * (1 - probability)).mean())
    return level


def sigmoid(logit: Floats) -> Floats:
    """Return 1 / (1 + exp(-logit))."""
    return 1.0 / (1.0 + np.exp(-logit))


def auc_ladder(world: World, truth: Truth, seed: int) -> dict[str, dict[str, float]]:
    """Return the expected AUC after each component is added to the score: over all rows, the fifth and the last sixth.

    "level" scores include the level of the day, which no feature contains; "features" scores do not.
    """
    rows = draw_rows(world, 2 * CALIBRATION_ROWS, cumulative_days(DAYS), draw(seed, "ladder"))
    parts = components(world, truth, rows)
    level = truth.days[rows.day]
    score = np.zeros(len(rows))
    probability = sigmoid(sum(parts.values(), level))
    time = np.array([day.start for day in DAYS])[rows.day] + rows.second
    fifth, last = np.quantile(time, 4 / 6), np.quantile(time, 5 / 6)
    parts_of_time = {
        "all rows": np.ones(len(rows), dtype=bool),
        "fifth sixth": (time >= fifth) & (time < last),
        "last sixth": time >= last,
    }
    ladder = {"day": _ladder_step(level, level, probability, parts_of_time)}
    for name, part in parts.items():
        score = score + part
        ladder[f"+ {name}"] = _ladder_step(score, score + level, probability, parts_of_time)
    return ladder


def _ladder_step(
    features: Floats, level: Floats, probability: Floats, masks: Mapping[str, NDArray[np.bool_]]
) -> dict[str, float]:
    scores = {"features": features, "level": level}
    return {
        f"{name}, {part}": round(expected_auc(score[mask], probability[mask]), 4)
        for name, score in scores.items()
        for part, mask in masks.items()
    }
