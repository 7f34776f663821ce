"""Acceptance tests of spec: production-9.10 on all rows of a size: `python benchmarks/production_acceptance.py 20m`.

Prints a table of test, expected value, measured value and verdict, then the ladder of spec: production-9.6. Ranges of
rows are generated and measured in `--workers` processes; no file is written. Test 7 (no method wins on the null
dataset) needs training: docs/guide/large-data.md, from `prepare production --variant null` on.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import production_checks as acceptance
from numpy.typing import NDArray
from production_checks import Check, Tally
from rich.console import Console
from rich.table import Table

from ctrbench.synthetic.philox import Floats, words
from ctrbench.synthetic.production.calibration import calibrate
from ctrbench.synthetic.production.generator import Production
from ctrbench.synthetic.production.spec import spec_of_size

START_ROWS, RANGE_ROWS, DIGEST_ROWS, HISTORY_ROWS = 2_000_000, 1 << 18, 1 << 20, 1 << 20
WORKERS = (1, 4, 16)
KNOWN_WORDS = (0x9C6A1E2B, 0x5C392F1A, 0xDF9D0136, 0x4096D5C9)
PRECISION = 1e-9
"""Step to which floats are rounded before they are hashed."""


@dataclass(frozen=True)
class Range:
    """Range of rows to measure."""

    production: Production
    start: int
    stop: int
    coefficients: Floats | None = None


def measure(part: Range) -> Tally:
    """Measure a range."""
    assert part.coefficients is not None
    return acceptance.tally(part.production, part.start, part.stop, part.coefficients)


def range_digest(part: Range) -> str:
    """Return the digest of a range."""
    return content_digest(part.production.rows(part.start, part.stop))


def content_digest(columns: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 of the columns' values: integers exactly, floats rounded to 1e-9.

    The rounding hides differences in the last digit between processors.
    """
    digest = hashlib.sha256()
    for name in sorted(columns):
        values = columns[name]
        if values.dtype.kind == "f":
            values = np.rint(values.astype(np.float64) / PRECISION).astype(np.int64)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def randomness_checks(production: Production) -> list[Check]:
    """Return test 1: the reference output of the generator, and digests of 16 ranges from 1, 4 and 16 workers."""
    rows = min(DIGEST_ROWS, production.spec.rows)
    ranges = [Range(production, k * rows // 16, (k + 1) * rows // 16) for k in range(16)]
    alone = [range_digest(part) for part in ranges]
    whole = production.rows(0, rows)
    slices = [
        content_digest({name: values[part.start : part.stop] for name, values in whole.items()})
        for part in ranges
    ]
    passed = words(20_240_601, 5, 12_345, 7, 3) == KNOWN_WORDS
    verdict = "equal" if passed else "different"
    results = [Check(test="1. reference output", expected="equal", measured=verdict, passed=passed)]
    results.append(_equality_check("1. single ranges against one range", alone, slices))
    for workers in WORKERS:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            digests = list(pool.map(range_digest, reversed(ranges)))[::-1]
        results.append(_equality_check(f"1. digests from {workers} workers", digests, alone))
    return results


def _equality_check(test: str, digests: list[str], expected: list[str]) -> Check:
    num_equal = sum(digest == other for digest, other in zip(digests, expected, strict=True))
    measured = f"{num_equal} of 16 equal"
    return Check(test=test, expected="16 of 16 equal", measured=measured, passed=num_equal == 16)


def tallies(production: Production, start: Floats, workers: int, rows: int) -> list[Tally]:
    """Measure `rows` rows in ranges that cover the dataset evenly; return the sums of eight parts of the ranges."""
    size = min(RANGE_ROWS, -(-rows // 16))
    number, last = -(-rows // size), production.spec.rows
    begins = [last * i // number if rows < last else size * i for i in range(number)]
    ranges = [Range(production, begin, min(begin + size, last), start) for begin in begins]
    sums: list[Tally | None] = [None] * min(8, len(ranges))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for i, tally in enumerate(pool.map(measure, ranges, chunksize=1)):
            total = sums[i % len(sums)]
            sums[i % len(sums)] = tally if total is None else total + tally
    return [total for total in sums if total is not None]


def show(results: list[Check], sums: Tally) -> None:
    """Print the checks and the ladder."""
    table = Table("test", "expected", "measured", "verdict")
    for check in results:
        table.add_row(check.test, check.expected, check.measured, "passed" if check.passed else "FAILED")
    ladder = Table("components", "AUC", "prototype", "LL", "prototype", "within-domain AUC", "theory")
    columns = (
        acceptance.ladder_auc(sums),
        acceptance.EXPECTED_AUC,
        acceptance.ladder_logloss(sums),
        acceptance.EXPECTED_LOGLOSS,
        acceptance.ladder_within(sums),
        acceptance.EXPECTED_WITHIN,
    )
    for step, *values in zip(acceptance.STEPS, *columns, strict=True):
        ladder.add_row(step, *(f"{value:.4f}" for value in values))
    console = Console(width=110)
    console.print(table)
    console.print(ladder)


def main() -> int:
    """Run the tests and print their results; return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", nargs="?", default="20m")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--rows", type=lambda text: int(float(text)), help="number of rows to measure (default: all)"
    )
    options = parser.parse_args()
    began = time.perf_counter()
    # Behaviors affect clicks of data with sequences only.
    spec = spec_of_size(options.size).model_copy(update={"sequences": True})
    production = Production(spec, calibrate(spec))
    rows = min(options.rows or spec.rows, spec.rows)
    results = randomness_checks(production)
    results.append(acceptance.history_check(production, 0, min(HISTORY_ROWS, rows)))
    start = acceptance.start_coefficients(production, 0, min(START_ROWS, rows))
    parts = tallies(production, start, options.workers, rows)
    results += acceptance.checks(production, parts, start)
    show(results, reduce(add, parts))
    seconds = time.perf_counter() - began
    sys.stdout.write(
        f"{rows:,} of {spec.rows:,} rows of {options.size} in {seconds:.0f} s with {options.workers} workers\n"
    )
    return 0 if all(check.passed for check in results) else 1


if __name__ == "__main__":
    sys.exit(main())
