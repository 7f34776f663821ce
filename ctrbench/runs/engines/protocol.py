"""The protocols of run execution: an engine executes runs, a backend says where, a watcher receives progress.

An engine is a backend × the number of workers per run, composed in `engine.RunEngine`. Either backend writes the same
records, so nothing else depends on the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore


class Watcher(Protocol):
    """Receives the progress of runs."""

    def started(self, run: Run) -> None:
        """Receive that a run has started."""

    def ticked(self, run: Run, tick: Any) -> None:  # noqa: ANN401  # train.loop.Tick, which would import torch here
        """Receive the training progress of a run."""

    def finished(self, run: Run, record: RunRecord) -> None:
        """Receive the record of a run that has finished or failed."""


class Engine(Protocol):
    """Executes runs."""

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Execute all runs; return their records in the order of completion."""


ExecuteShared = Callable[[Run, Watcher], RunRecord]
"""Executes one run by several workers."""


class Backend(Protocol):
    """The machine or cluster that executes runs."""

    def run_parallel(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Execute runs in parallel, one worker per run; return their records in the order of completion."""

    def open_shared(self, store: RunStore, workers: int) -> AbstractContextManager[ExecuteShared]:
        """Yield a function that executes one run by that many workers."""
