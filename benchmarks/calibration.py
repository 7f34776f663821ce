"""`python benchmarks/calibration.py`: false claims of the rules for differences, in tables without any difference.

Each simulated table has rows that are equal in truth, with deviations over seeds and users of the sizes in a results
folder (`--results DIR --dataset NAME`; runs must hold their influence values) or of stated sizes. `--repeats METHOD`
deals real runs of one method into tables instead (A/A). A table counts as false if a rule claims any difference in it.
The result replaces the block between two markers of `--out` (default: docs/protocol.md).

    python benchmarks/calibration.py
    python benchmarks/calibration.py --results results --dataset movielens-1m
    python benchmarks/calibration.py --results DIR --dataset movielens-1m --repeats plain
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from ctrbench.eval.contrasts import Contrast, contrasts, detectable_gap
from ctrbench.eval.crossed import CrossedRows, RowSample, common_seeds
from ctrbench.eval.protocol import LEVEL, MIN_SEEDS
from ctrbench.report.comparison import Comparison, collect
from ctrbench.report.differences import row_samples
from ctrbench.runs.store import open_store
from ctrbench.storage.files import write_text

Floats = npt.NDArray[np.float64]
Table = Mapping[int, RowSample]
"""Rows by number; row 0 is the one that the others are compared with."""
SIZES = (2, 5, 10, 27, 50)
DRAWS = 4_000
"""Draws per family; reports use more."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """Standard deviations of rows; one row of a simulated table has those of a random one."""

    seeds: Floats
    """Of AUC over seeds, without the part from users."""
    users: Floats
    """Standard error of AUC over users, without the part that all rows have in common."""
    interaction: Floats
    """Standard error over users of the deviation of a single seed."""
    num_users: int
    source: str
    """Origin of the numbers, as a sentence."""


STATED = Components(
    # Differences between two rows over six seeds have standard errors of 0.0004 to 0.0013 over seeds and 0.0006 to
    # 0.0011 over users, as those of AdaSparse, APG v4 and STAR from plain on MovieLens-1M.
    seeds=np.array([0.0006, 0.0007, 0.0014, 0.0030]),
    users=np.array([0.0004, 0.0010, 0.0005, 0.0007]),
    interaction=np.array([0.0005, 0.0005, 0.0006, 0.0007]),
    num_users=1_605,
    source=(
        "Simulation with stated deviations, of the sizes seen on MovieLens-1M. **These are not those of published "
        "records**; `--results` estimates them from records."
    ),
)


def claims_by_best_and_seeds(table: Table) -> bool:
    """Return the claim of the former rule: t-tests over seeds against the best mean, Holm-adjusted."""
    values = {
        name: np.array([row.values[s] for s in common_seeds(list(table.values()))])
        for name, row in table.items()
    }
    best = max(values, key=lambda name: values[name].mean())
    p_values = [stats.ttest_rel(values[best], values[name]).pvalue for name in values if name != best]
    return bool((holm(p_values) < LEVEL).any())


def claims_by_holm(pairs: Callable[[Table], list[tuple[int, int]]]) -> Callable[[Table], bool]:
    """Return the rule of single t-tests over seeds and users, Holm-adjusted."""

    def is_claimed(table: Table) -> bool:
        means, parts = CrossedRows.of(list(table.values())).differences(pairs(table))
        p_values = 2 * stats.t.sf(np.abs(means) / np.sqrt(parts.total), parts.freedom)
        return bool((holm(p_values) < LEVEL).any())

    return is_claimed


def claims_by_largest(pairs: Callable[[Table], list[tuple[int, int]]]) -> Callable[[Table], bool]:
    """Return the rule of simultaneous intervals over seeds and users."""

    def is_claimed(table: Table) -> bool:
        family = contrasts(table, pairs(table), draws=DRAWS).values()
        return any(excludes_zero(contrast) for contrast in family)

    return is_claimed


def with_first(table: Table) -> list[tuple[int, int]]:
    """Return the pairs of each row with row 0."""
    return [(name, 0) for name in table if name]


def all_pairs(table: Table) -> list[tuple[int, int]]:
    """Return all pairs of rows."""
    return list(combinations(table, 2))


RULES: Mapping[str, Callable[[Table], bool]] = {
    "best, seeds only (former rule)": claims_by_best_and_seeds,
    "plain, Holm": claims_by_holm(with_first),
    "plain, max-T": claims_by_largest(with_first),
    "all pairs, Holm": claims_by_holm(all_pairs),
    "all pairs, max-T": claims_by_largest(all_pairs),
}


def holm(p_values: npt.ArrayLike) -> Floats:
    """Return p-values adjusted by Holm's rule, in their order."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.arange(values.size, 0, -1) * values[order])
    return np.minimum(adjusted, 1.0)


def excludes_zero(contrast: Contrast) -> bool:
    """Return whether the interval of a tested contrast excludes 0."""
    uncertainty = contrast.uncertainty
    return uncertainty is not None and not uncertainty.low <= 0 <= uncertainty.high


def simulated_tables(
    components: Components, num_rows: int, num_tables: int, *, num_seeds: int = MIN_SEEDS, seed: int = 0
) -> Iterator[Table]:
    """Yield tables of equal rows; users have log-normal numbers of rows."""
    draw = np.random.default_rng((seed, num_rows))
    for _ in range(num_tables):
        weights = draw.lognormal(sigma=1.0, size=components.num_users)
        weights /= np.sqrt(np.sum(weights**2))
        kinds = draw.integers(0, components.seeds.size, num_rows)
        yield {
            name: simulated_row(components, kind, weights, num_seeds, draw) for name, kind in enumerate(kinds)
        }


def simulated_row(
    components: Components, kind: int, weights: Floats, num_seeds: int, draw: np.random.Generator
) -> RowSample:
    """Return a row with AUC 0.74 in truth."""
    own = components.users[kind] * weights * draw.standard_normal(weights.size)
    single = components.interaction[kind] * weights * draw.standard_normal((num_seeds, weights.size))
    influences = own + single
    values = 0.74 + components.seeds[kind] * draw.standard_normal(num_seeds) + influences.sum(axis=1)
    centered = influences - influences.sum(axis=1, keepdims=True) * weights**2
    return RowSample(values=dict(enumerate(values.tolist())), influences=dict(enumerate(centered)))


def components_of(samples: Sequence[RowSample], source: str) -> Components:
    """Estimate the components of complete rows, from deviations around the mean of all rows."""
    rows = CrossedRows.of(samples)
    num_rows, num_seeds = rows.by_seed.shape
    center = np.eye(num_rows) - 1 / num_rows
    users = (
        np.diagonal(center @ (rows.influences @ rows.influences.T - rows.interaction) @ center)
        * num_rows
        / (num_rows - 1)
    )
    interaction = np.diagonal(rows.interaction) * num_seeds
    over_seeds = rows.by_seed.var(axis=1, ddof=1) - interaction
    return Components(
        seeds=np.sqrt(np.maximum(over_seeds, 0)),
        users=np.sqrt(np.maximum(users, 0)),
        interaction=np.sqrt(interaction),
        num_users=rows.influences.shape[1],
        source=source,
    )


def dealt_tables(
    runs: RowSample, num_rows: int, num_tables: int, *, num_seeds: int = MIN_SEEDS, seed: int = 0
) -> Iterator[Table]:
    """Yield tables whose rows are disjoint sets of runs of one method, in random order."""
    draw = np.random.default_rng((seed, num_rows))
    names = np.array(sorted(runs.values))
    for _ in range(num_tables):
        dealt = draw.permutation(names)[: num_rows * num_seeds].reshape(num_rows, num_seeds)
        yield {
            number: RowSample(
                values={i: runs.values[name] for i, name in enumerate(own)},
                influences={i: runs.influences[name] for i, name in enumerate(own)},
            )
            for number, own in enumerate(dealt.tolist())
        }


@dataclass(frozen=True, kw_only=True)
class Line:
    """False claims in tables of one size."""

    num_rows: int
    num_tables: int
    num_false: Mapping[str, int]
    gap: float | None
    """Median over the tables of the gap that is found in 80 % of tables."""


def measure(num_rows: int, tables: Iterable[Table]) -> Line:
    """Count the tables in which each rule claims a difference."""
    num_false, gaps, num_tables = dict.fromkeys(RULES, 0), [], 0
    for table in tables:
        num_tables += 1
        for name, is_claimed in RULES.items():
            num_false[name] += is_claimed(table)
        gaps.append(detectable_gap(contrasts(table, with_first(table), draws=1_000).values()) or np.nan)
    return Line(
        num_rows=num_rows,
        num_tables=num_tables,
        num_false=num_false,
        gap=float(np.nanmedian(gaps)) if gaps else None,
    )


def markdown(lines: Sequence[Line], source: str) -> str:
    """Return the table of false claims, with its standard errors in words."""
    head = f"| rows | tables | {' | '.join(RULES)} | gap found in 80 % |"
    rule = f"| --: | --: | {' | '.join('--:' for _ in RULES)} | --: |"
    body = [
        f"| {line.num_rows} | {line.num_tables:,} | "
        f"{' | '.join(f'{100 * line.num_false[name] / line.num_tables:.1f} %' for name in RULES)} | {line.gap:.4f} |"
        for line in lines
    ]
    num_tables = min(line.num_tables for line in lines)
    error = 100 * (LEVEL * (1 - LEVEL) / num_tables) ** 0.5
    notes = (
        f"{source}\n\nShare of tables without a true difference in which a rule claims one, with {MIN_SEEDS} seeds; "
        f"the standard error of a share of 5 % is {error:.1f} %."
    )
    return "\n".join([notes, "", head, rule, *body])


def replace_block(text: str, block: str, name: str) -> str:
    """Return a text with the block between its two markers replaced."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, has_start, rest = text.partition(start)
    _, has_end, after = rest.partition(end)
    if not has_start or not has_end:
        raise SystemExit(f"the file must have the lines {start} and {end}")
    return f"{before}{start}\n{block}\n{end}{after}"


def read_samples(results: str, dataset: str, method: str | None) -> list[RowSample]:
    """Return the complete rows with enough seeds of the largest comparison, of one method or of all."""

    def complete(comparison: Comparison) -> list[RowSample]:
        rows = [row for row in comparison.rows if method in (None, row.key.method.name)]
        samples = row_samples(rows, "auc")
        return [sample for sample in samples if sample.is_complete and len(sample.values) >= MIN_SEEDS]

    found = max(map(complete, collect(open_store(results), dataset=dataset)), key=len)
    if len(found) < (1 if method else 2):
        raise SystemExit(
            f"{results} has too few rows of {dataset} with influence values and {MIN_SEEDS} seeds"
        )
    return found


def main() -> None:
    """Simulate or deal tables, and write the shares of false claims."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results")
    parser.add_argument("--dataset", default="movielens-1m")
    parser.add_argument("--repeats", metavar="METHOD", help="deal the runs of this method into tables")
    parser.add_argument("--tables", type=int, default=200, help="of the largest size; smaller ones have more")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, default=Path("docs/protocol.md"))
    options = parser.parse_args()
    if options.repeats:
        (runs, *_) = read_samples(options.results, options.dataset, options.repeats)
        sizes = [size for size in options.sizes if size * MIN_SEEDS <= len(runs.values)]
        source = (
            f"{len(runs.values)} runs of {options.repeats} on {options.dataset}, dealt into tables at random."
        )
        tables = {size: dealt_tables(runs, size, options.tables) for size in sizes}
    else:
        components = STATED
        if options.results:
            samples = read_samples(options.results, options.dataset, None)
            source = f"Simulation with the deviations of {len(samples)} rows on {options.dataset}."
            components = components_of([sample.select(common_seeds(samples)) for sample in samples], source)
        source, sizes = components.source, options.sizes
        # Small tables are cheap.
        tables = {
            size: simulated_tables(components, size, options.tables * max(SIZES[-1] // size, 1))
            for size in sizes
        }
    block = markdown([measure(size, tables[size]) for size in sizes], source)
    name = "repeats" if options.repeats else "calibration"
    write_text(options.out, replace_block(options.out.read_text(encoding="utf-8"), block, name))


if __name__ == "__main__":
    main()
