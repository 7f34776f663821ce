"""The world of the fuzz suite, its judge, and the number of cases by outcome at the end.

`CTRBENCH_FUZZ_FACTOR` multiplies the number of cases; above 1, a test goes on after a failure and shows the smallest
case of every kind of failure at its end.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
def runs_in_this_process() -> Iterator[None]:
    """Train runs of this folder's tests, and of no others, in this process."""
    with _training_here():
        yield


@contextmanager
def _training_here() -> Iterator[None]:
    """Train runs in this process, which saves the start of another one."""
    from ctrbench.runs.engines.local_backend import LocalBackend
    from ctrbench.runs.engines.protocol import Watcher
    from ctrbench.runs.grid import Run
    from ctrbench.runs.record import RunRecord
    from ctrbench.runs.store import RunStore

    def run_parallel(
        self: LocalBackend, runs: list[Run], store: RunStore, watcher: Watcher
    ) -> list[RunRecord]:
        records = []
        for run in runs:
            watcher.started(run)
            records.append(_execute(run, store, self.checkpoint_seconds))
            watcher.finished(run, records[-1])
        return records

    @contextmanager
    def open_shared(self: LocalBackend, store: RunStore, workers: int) -> Iterator[Callable[..., RunRecord]]:
        yield lambda run, watcher: _execute(run, store, self.checkpoint_seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalBackend, "run_parallel", run_parallel)
        patch.setattr(LocalBackend, "open_shared", open_shared)
        yield


def _execute(run: object, store: object, checkpoint_seconds: float) -> object:
    """Execute a run; an exit from within is recorded as the death of its process, as the backend does."""
    from ctrbench.runs.engines.local_backend import record_death
    from ctrbench.runs.execute import execute

    try:
        return execute(run, store, checkpoint_seconds=checkpoint_seconds)
    except SystemExit as leave:
        return record_death(run, store, leave.code if isinstance(leave.code, int) else 1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The template of all cases of this process."""
    with _training_here():
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
