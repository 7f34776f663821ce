"""Differences between rows of a table with simultaneous intervals over seeds and users (spec: significance-8.9).

A family is a list of pairs of rows, such as each method with plain. The intervals of a family all hold at once with
probability 95 %. A pair with too few common seeds, or whose users' part is unknown, has a mean but no interval, and
does not belong to the family of the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import stdtrit

from ctrbench.eval.crossed import CrossedRows, RowSample, common_seeds
from ctrbench.eval.metrics.base import Floats
from ctrbench.eval.protocol import LEVEL, MIN_SEEDS, POWER
from ctrbench.eval.simultaneous import DRAWS, Block, simulate_maxima, standardized, statistic

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Standard errors of a mean difference and its simultaneous interval."""

    seeds: float
    """Standard error over seeds alone."""
    users: float
    """Standard error over users alone."""
    total: float
    """Standard error over both."""
    freedom: float
    """Degrees of freedom of the total."""
    low: float
    high: float
    p: float
    """Adjusted for all pairs of the family."""

    @property
    def detectable_gap(self) -> float:
        """The true difference whose interval excludes 0 with probability `POWER`."""
        return (self.high - self.low) / 2 + self.total * float(stdtrit(self.freedom, POWER))


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The first row of a pair minus the second, over their common seeds."""

    mean: float | None
    """None without common seeds."""
    num_seeds: int
    uncertainty: Uncertainty | None
    """None for a pair that is not tested."""


def contrasts(
    samples: Mapping[Name, RowSample],
    pairs: Iterable[tuple[Name, Name]],
    *,
    untested: Iterable[Name] = (),
    level: float = LEVEL,
    draws: int = DRAWS,
) -> dict[tuple[Name, Name], Contrast]:
    """Return the contrast of each pair of rows, with intervals that hold simultaneously at 1 - `level`.

    Pairs with at least `MIN_SEEDS` common seeds whose influence values are known for both rows are tested, except
    those with a row in `untested`, such as one with failed runs.
    """
    pairs, excluded = list(pairs), set(untested)
    tested = [pair for pair in pairs if not excluded & set(pair) and _is_testable(samples, pair)]
    uncertainties = _uncertainties(samples, tested, level, draws) if tested else {}
    return {pair: _contrast(samples, pair, uncertainties.get(pair)) for pair in pairs}


def detectable_gap(family: Iterable[Contrast]) -> float | None:
    """Return the median of the detectable gaps of a family; None if no pair is tested."""
    gaps = [contrast.uncertainty.detectable_gap for contrast in family if contrast.uncertainty]
    return float(np.median(gaps)) if gaps else None


def _is_testable(samples: Mapping[Name, RowSample], pair: tuple[Name, Name]) -> bool:
    rows = [samples[name] for name in pair]
    return all(row.is_complete for row in rows) and len(common_seeds(rows)) >= MIN_SEEDS


def _contrast(
    samples: Mapping[Name, RowSample], pair: tuple[Name, Name], uncertainty: Uncertainty | None
) -> Contrast:
    first, second = (samples[name] for name in pair)
    seeds = common_seeds((first, second))
    differences = [first.values[seed] - second.values[seed] for seed in seeds]
    mean = float(np.mean(differences)) if differences else None
    return Contrast(mean=mean, num_seeds=len(seeds), uncertainty=uncertainty)


def _uncertainties(
    samples: Mapping[Name, RowSample], pairs: Sequence[tuple[Name, Name]], level: float, draws: int
) -> dict[tuple[Name, Name], Uncertainty]:
    families = _blocks(samples, pairs)
    maximum = simulate_maxima([block for block, _ in families], draws=draws)
    critical = maximum.critical_deviate(level)
    results: dict[tuple[Name, Name], Uncertainty] = {}
    for block, names in families:
        means, parts = block.rows.differences(block.pairs)
        errors = np.sqrt(parts.total)
        margins = statistic(np.full(errors.shape, critical), parts.freedom) * errors
        columns: dict[str, Floats] = {
            "seeds": np.sqrt(parts.seeds),
            "users": np.sqrt(parts.users),
            "total": errors,
            "freedom": parts.freedom,
            "low": means - margins,
            "high": means + margins,
            "p": maximum.p_values(standardized(means, parts)),
        }
        for i, pair in enumerate(names):
            results[pair] = Uncertainty(**{name: float(column[i]) for name, column in columns.items()})
    return results


def _blocks(
    samples: Mapping[Name, RowSample], pairs: Sequence[tuple[Name, Name]]
) -> list[tuple[Block, list[tuple[Name, Name]]]]:
    """Return the pairs grouped by their common seeds, as blocks of row indices."""
    by_seeds: dict[tuple[int, ...], list[tuple[Name, Name]]] = defaultdict(list)
    for pair in pairs:
        by_seeds[common_seeds([samples[name] for name in pair])].append(pair)
    return [(_block(samples, seeds, group), group) for seeds, group in by_seeds.items()]


def _block(
    samples: Mapping[Name, RowSample], seeds: Sequence[int], pairs: Sequence[tuple[Name, Name]]
) -> Block:
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    index = {name: i for i, name in enumerate(names)}
    rows = CrossedRows.of([samples[name].select(seeds) for name in names])
    return Block(rows=rows, pairs=tuple((index[first], index[second]) for first, second in pairs))
