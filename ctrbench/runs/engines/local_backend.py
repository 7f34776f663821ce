"""The local backend: a pool of processes on this machine, each of which executes one run at a time.

A process that dies ends one run: the run is recorded as failed, a new process replaces it, and the other runs
continue. Stopping the parent stops the processes; interrupted runs resume from their checkpoints.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from ctrbench.errors import CtrbenchError
from ctrbench.failures import user_error
from ctrbench.runs.engines.protocol import ExecuteShared, Watcher
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Start child processes with Ctrl-C ignored from the outset.

    A process that ignored it only later would print a traceback if the user interrupts while it imports torch.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may change the handling of signals.
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@dataclass(kw_only=True)
class _Process:
    process: BaseProcess
    pipe: Connection
    device: str | None
    """The only GPU that the process sees."""
    run: Run | None = None


class LocalBackend:
    """Executes runs in processes of this machine."""

    def __init__(self, jobs: int, *, checkpoint_seconds: float, devices: Sequence[str] = ()) -> None:
        """Make a backend of `jobs` parallel processes; each sees one of the devices, in turn."""
        self.jobs, self.checkpoint_seconds, self.devices = jobs, checkpoint_seconds, tuple(devices)

    def run_parallel(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Execute runs in parallel, one process per run; return their records in the order of completion."""
        waiting = deque(runs)
        records: list[RunRecord] = []
        num_processes = min(self.jobs, len(waiting))
        processes = [self._start_process(store, self.device_of(i)) for i in range(num_processes)]
        try:
            while waiting or any(process.run for process in processes):
                for process in processes:
                    if process.run is None and waiting:
                        process.run = waiting.popleft()
                        watcher.started(process.run)
                        process.pipe.send(process.run)
                self._receive(processes, store, watcher, records)
        finally:
            for process in processes:
                process.process.terminate()
            for process in processes:
                process.process.join()
        return records

    @contextmanager
    def open_shared(self, store: RunStore, workers: int) -> Iterator[ExecuteShared]:
        """Yield a function that executes one run by that many processes."""
        from ctrbench.runs.engines.shared_run import execute_shared

        yield partial(
            execute_shared, store=store, workers=workers, checkpoint_seconds=self.checkpoint_seconds
        )

    def _receive(
        self, processes: list[_Process], store: RunStore, watcher: Watcher, records: list[RunRecord]
    ) -> None:
        """Wait for messages of busy processes and handle them."""
        busy = {process.pipe: process for process in processes if process.run is not None}
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            process = busy[pipe]
            assert process.run is not None
            try:
                message = pipe.recv()
            except (EOFError, ConnectionError):
                process.process.join()
                message = record_death(process.run, store, process.process.exitcode)
                successor = self._start_process(store, process.device)
                process.process, process.pipe = successor.process, successor.pipe
                _finish(process, message, watcher, records)
                continue
            if isinstance(message, CtrbenchError):
                raise message
            if isinstance(message, RunRecord):
                _finish(process, message, watcher, records)
            else:
                watcher.ticked(process.run, message)

    def device_of(self, index: int) -> str | None:
        """Return the GPU of the process of that index, or None without GPUs."""
        return self.devices[index % len(self.devices)] if self.devices else None

    def _start_process(self, store: RunStore, device: str | None) -> _Process:
        # Spawned, not forked: torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        parent_end, child_end = context.Pipe()
        arguments = (child_end, store, self.checkpoint_seconds, device)
        process = context.Process(target=serve_runs, args=arguments, daemon=True)
        with ignored_interrupts():
            process.start()
        child_end.close()
        return _Process(process=process, pipe=parent_end, device=device)


def _finish(process: _Process, record: RunRecord, watcher: Watcher, records: list[RunRecord]) -> None:
    assert process.run is not None
    watcher.finished(process.run, record)
    records.append(record)
    process.run = None


def record_death(run: Run, store: RunStore, exitcode: int | None) -> RunRecord:
    """Record that the process of a run died; return the stored record."""
    from ctrbench.runs.outcome import record_failure

    cause = f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"
    hint = "; if memory ran out, try fewer --jobs" if exitcode == -signal.SIGKILL else ""
    error = f"the process of the run died with {cause}{hint}; run the same command again to resume"
    return record_failure(run, store, error)


def send_message(pipe: Connection, message: object) -> None:
    """Send to the parent process; exit if it is gone, which is no failure of the run."""
    try:
        pipe.send(message)
    except (BrokenPipeError, ConnectionResetError):
        raise SystemExit("the parent process has exited") from None


def serve_runs(
    pipe: Connection, store: RunStore, checkpoint_seconds: float, device: str | None = None
) -> None:
    """Execute the runs that arrive through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if device is not None:
        # Set before CUDA is initialized, which reads it once.
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    from ctrbench.runs.execute import execute

    while True:
        try:
            run = pipe.recv()
        except EOFError:
            return
        try:
            send = partial(send_message, pipe)
            send(execute(run, store, progress=send, checkpoint_seconds=checkpoint_seconds))
        except Exception as error:
            # Not a failure of the run, which would be a record, but of writing it, such as a full disk.
            shown = user_error(error)
            if shown is None:
                raise
            send_message(pipe, shown)
