"""The world of the fuzz suite, its judge, and the number of cases by outcome at the end.

`CTRBENCH_FUZZ_FACTOR` multiplies the number of cases; above 1, a test goes on after a failure and shows the smallest
case of every kind of failure at its end.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from ctrbench.speed.bounds import measure_roofs

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_judge import Judge
from fuzz_values import FACTOR
from fuzz_world import World, make_world


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.fuzz)


@pytest.fixture(scope="module", autouse=True)
def runs_in_this_process(train_here: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Train runs of this folder's tests in this process, and skip what measures the machine or calibrates a twin."""
    with train_here(), pytest.MonkeyPatch.context() as patch:
        _shorten(patch)
        yield


def _shorten(patch: pytest.MonkeyPatch) -> None:
    """Take constant amounts of work that no input of a case changes from what commands do."""
    patch.setattr(
        "ctrbench.speed.bench.measure_roofs", partial(measure_roofs, sizes=(64,), copied_bytes=1 << 16)
    )
    patch.setattr("ctrbench.synthetic.iaac.truth.CALIBRATION_ROWS", 1 << 12)


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, train_here: Callable[[], AbstractContextManager[None]]
) -> World:
    """The template of all cases of this process."""
    with train_here(), pytest.MonkeyPatch.context() as patch:
        _shorten(patch)
        return make_world(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    """The judge of one test, which fails at its end if there was a failure."""
    judge = Judge()
    yield judge
    request.node.user_properties.append(("fuzz", (dict(judge.counts), dict(judge.num_failures))))
    assert FACTOR <= 1 or not judge.failures, "\n\n".join(map("\n".join, judge.failures.items()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of cases by outcome."""
    counts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    for report in reports:
        if getattr(report, "when", None) == "teardown":
            for _, value in (item for item in report.user_properties if item[0] == "fuzz"):
                counts.update(value[0])
                failures.update(value[1])
    if counts:
        parts = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
        terminalreporter.write_line(f"fuzz: {counts.total()} cases: {parts}; {failures.total()} failures")
        for fault, number in failures.most_common():
            terminalreporter.write_line(f"fuzz: {number} × {fault}")
