"""Where runs go: processes on this machine, each making one run at a time.

A worker that dies takes one run with it: the run is recorded as failed, a new worker takes the place and the others
go on. Stopping the parent stops the workers; whatever was under way resumes from its checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from ctrbench.errors import CtrbenchError
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.config import TrainConfig


class Watcher(Protocol):
    """Hears what the runs do."""

    def started(self, run: Run) -> None:
        """A run has begun."""

    def ticked(self, run: Run, tick: Any) -> None:  # noqa: ANN401  # train.loop.Tick, which would import torch here
        """A run has gone on."""

    def finished(self, run: Run, record: RunRecord) -> None:
        """A run has ended, well or not."""


def default_jobs(config: TrainConfig) -> int:
    """As many runs side by side as cores allow; one on a GPU."""
    if config.device == "cuda":
        return 1
    return max(1, (os.cpu_count() or 1) // config.threads)


@dataclass(kw_only=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    run: Run | None = None


class LocalEngine:
    """Runs side by side in processes of this machine."""

    def __init__(self, jobs: int, *, checkpoint_seconds: float) -> None:
        self.jobs, self.checkpoint_seconds = jobs, checkpoint_seconds

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Make all runs and return their records in the order in which they ended."""
        waiting = deque(runs)
        records: list[RunRecord] = []
        workers = [self._hire(store) for _ in range(min(self.jobs, len(waiting)))]
        try:
            while waiting or any(worker.run for worker in workers):
                for worker in workers:
                    if worker.run is None and waiting:
                        worker.run = waiting.popleft()
                        watcher.started(worker.run)
                        worker.pipe.send(worker.run)
                self._listen(workers, store, watcher, records)
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.process.join()
        return records

    def _listen(
        self, workers: list[_Worker], store: RunStore, watcher: Watcher, records: list[RunRecord]
    ) -> None:
        busy = {worker.pipe: worker for worker in workers if worker.run is not None}
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            worker = busy[pipe]
            assert worker.run is not None
            try:
                message = pipe.recv()
            except (EOFError, ConnectionError):
                worker.process.join()
                message = _lost(worker.run, store, worker.process.exitcode)
                fresh = self._hire(store)
                worker.process, worker.pipe = fresh.process, fresh.pipe
                _end(worker, message, watcher, records)
                continue
            if isinstance(message, CtrbenchError):
                raise message
            if isinstance(message, RunRecord):
                _end(worker, message, watcher, records)
            else:
                watcher.ticked(worker.run, message)

    def _hire(self, store: RunStore) -> _Worker:
        # Spawned, not forked: torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, store, self.checkpoint_seconds), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process=process, pipe=ours)


def _end(worker: _Worker, record: RunRecord, watcher: Watcher, records: list[RunRecord]) -> None:
    assert worker.run is not None
    watcher.finished(worker.run, record)
    records.append(record)
    worker.run = None


def _lost(run: Run, store: RunStore, exitcode: int | None) -> RunRecord:
    from ctrbench.runs.execute import failed_record

    how = f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"
    hint = "; the system may have run out of memory" if exitcode == -signal.SIGKILL else ""
    record = failed_record(
        run, f"the process of the run died with {how}{hint}; run again to go on from its checkpoint"
    )
    store.write(record)
    return record


def _work(pipe: Connection, store: RunStore, checkpoint_seconds: float) -> None:
    """Make the runs that come through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from ctrbench.runs.execute import execute

    while True:
        try:
            run = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(execute(run, store, report=pipe.send, checkpoint_seconds=checkpoint_seconds))
        except CtrbenchError as error:
            # Not a failure of the run, which would be a record, but of writing one: a full disk, say.
            pipe.send(error)
