"""`python benchmarks/production_acceptance.py small`: the acceptance tests of spec: production-9.10 over all rows of a
preset.

Prints a table of test, expected, seen and verdict, then the ladder of spec: production-9.6. Rows are made and measured
in ranges by as many processes as asked for; nothing is written. Test 7 (no method wins on the null dataset) needs
training: docs/guide/large-data.md, from `prepare production --variant null=strict` on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add

from rich.console import Console
from rich.table import Table

from ctrbench.synthetic.philox import Floats, words
from ctrbench.synthetic.production import acceptance
from ctrbench.synthetic.production.acceptance import Check, Tally
from ctrbench.synthetic.production.calibration import calibrate
from ctrbench.synthetic.production.generator import Production
from ctrbench.synthetic.production.raw_files import content_digest
from ctrbench.synthetic.production.spec import preset

START_ROWS, RANGE_ROWS, DIGEST_ROWS, HISTORY_ROWS = 2_000_000, 1 << 18, 1 << 20, 1 << 20
WORKERS = (1, 4, 16)
KNOWN = (0x9C6A1E2B, 0x5C392F1A, 0xDF9D0136, 0x4096D5C9)


@dataclass(frozen=True)
class Range:
    """Rows to be measured."""

    production: Production
    start: int
    stop: int
    coefficients: Floats | None = None


def measured(part: Range) -> Tally:
    """Measure a range."""
    assert part.coefficients is not None
    return acceptance.tally(part.production, part.start, part.stop, part.coefficients)


def digested(part: Range) -> str:
    """Return the digest of a range."""
    return content_digest(part.production.rows(part.start, part.stop))


def randomness_checks(production: Production) -> list[Check]:
    """Return test 1: the known answer, and digests of 16 ranges by 1, 4 and 16 workers."""
    rows = min(DIGEST_ROWS, production.spec.rows)
    ranges = [Range(production, k * rows // 16, (k + 1) * rows // 16) for k in range(16)]
    alone = [digested(part) for part in ranges]
    whole = production.rows(0, rows)
    slices = [content_digest({n: v[one.start : one.stop] for n, v in whole.items()}) for one in ranges]
    holds = words(20_240_601, 5, 12_345, 7, 3) == KNOWN
    results = [
        Check(test="1. known answer", expected="equal", seen="equal" if holds else "other", holds=holds)
    ]
    results.append(_equal("1. ranges alone against one run", alone, slices))
    for workers in WORKERS:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(digested, reversed(ranges)))[::-1]
        results.append(_equal(f"1. digests by {workers} workers", found, alone))
    return results


def _equal(test: str, found: list[str], expected: list[str]) -> Check:
    same = sum(one == other for one, other in zip(found, expected, strict=True))
    return Check(test=test, expected="16 of 16 equal", seen=f"{same} of 16 equal", holds=same == 16)


def tallies(production: Production, start: Floats, workers: int, rows: int) -> list[Tally]:
    """Measure all rows, or ranges of as many spread over them, and return the sums of eight parts of the ranges."""
    size = min(RANGE_ROWS, -(-rows // 16))
    number, last = -(-rows // size), production.spec.rows
    begins = [last * place // number if rows < last else size * place for place in range(number)]
    ranges = [Range(production, begin, min(begin + size, last), start) for begin in begins]
    sums: list[Tally | None] = [None] * min(8, len(ranges))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for place, one in enumerate(pool.map(measured, ranges, chunksize=1)):
            known = sums[place % len(sums)]
            sums[place % len(sums)] = one if known is None else known + one
    return [one for one in sums if one is not None]


def show(results: list[Check], sums: Tally) -> None:
    """Print the checks and the ladder."""
    table = Table("test", "expected", "seen", "verdict")
    for one in results:
        table.add_row(one.test, one.expected, one.seen, "holds" if one.holds else "FAILS")
    ladder = Table("known up to", "AUC", "prototype", "LL", "prototype", "within-domain AUC", "theory")
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
    """Run the tests and print what they say; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", nargs="?", default="small")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", type=lambda text: int(float(text)), help="measure so many, spread over all")
    options = parser.parse_args()
    began = time.perf_counter()
    spec = preset(options.preset)
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
        f"{rows:,} of {spec.rows:,} rows of {options.preset} in {seconds:.0f} s with {options.workers} workers\n"
    )
    return 0 if all(one.holds for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
