"""Where runs go: processes on this machine, each making one run at a time, or a Ray cluster (`ray_engine`).

A worker that dies takes one run with it: the run is recorded as failed, a new worker takes the place and the others
go on. Stopping the parent stops the workers; whatever was under way resumes from its checkpoint. Either engine makes
the same records, so nothing else knows which of them it was.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from ctrbench.errors import CtrbenchError, SettingError, did_you_mean
from ctrbench.runs.engines.capacity import find_room, fit, gpu_share, gpus
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.config import TrainConfig

ENGINES = ("local", "ray")


class Watcher(Protocol):
    """Hears what the runs do."""

    def started(self, run: Run) -> None:
        """A run has begun."""

    def ticked(self, run: Run, tick: Any) -> None:  # noqa: ANN401  # train.loop.Tick, which would import torch here
        """A run has gone on."""

    def finished(self, run: Run, record: RunRecord) -> None:
        """A run has ended, well or not."""


class Engine(Protocol):
    """Makes runs somewhere."""

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Make all runs and return their records in the order in which they ended."""


def make_engine(
    name: str = "local",
    *,
    config: TrainConfig,
    checkpoint_seconds: float,
    jobs: int | None = None,
    address: str | None = None,
    gpus_a_run: float | None = None,
    memory_a_run: int = 0,
    workers: int = 1,
    say: Callable[[str], None] = lambda _line: None,
) -> Engine:
    """Return the engine of that name; `say` hears the few lines that it has for the user.

    `memory_a_run`, in bytes, is `room.run_memory` of the largest run; 0 leaves memory out of account. More than one of
    `workers` make each run together, one run after the other.
    """
    _check_names(name, address)
    if workers > 1:
        _check_team(name, workers, config, jobs, gpus_a_run)
        if name == "local" and not fit(workers, memory_a_run):
            say(
                f"{workers} workers of about {memory_a_run / 1e9:.1f} GB each may not fit into the free memory"
            )
        return _team(name, workers, address, checkpoint_seconds)
    share = gpu_share(config, gpus_a_run)
    if name == "ray":
        from ctrbench.runs.engines.ray import RayEngine

        return RayEngine(
            address=address,
            checkpoint_seconds=checkpoint_seconds,
            cpus_a_run=config.threads,
            gpus_a_run=share,
            memory_a_run=memory_a_run,
            jobs=jobs,
            say=say,
        )
    room = find_room(config, memory_a_run=memory_a_run, gpus_a_run=share or 1.0)
    size = f"{memory_a_run / 1e9:.1f} GB"
    if not fit(1, memory_a_run):
        say(f"a run of about {size} may not fit into the free memory")
    elif jobs is None and room.limit == "memory":
        say(f"{room.jobs} side by side: memory, not cores, is the limit, at {size} a run")
    return LocalEngine(jobs or room.jobs, checkpoint_seconds=checkpoint_seconds, devices=room.devices)


def spread(name: str, address: str | None) -> Callable[..., Iterator[Any]] | None:
    """Return what calls a function on all items on the engine of that name; None: processes of this machine."""
    _check_names(name, address)
    if name == "local":
        return None
    from ctrbench.runs.engines.ray import ray_map

    return partial(ray_map, address=address)


def _check_names(name: str, address: str | None) -> None:
    if name not in ENGINES:
        raise SettingError("no such engine", value=name, remedy=did_you_mean(name, ENGINES))
    if name == "local" and address is not None:
        raise SettingError("an address is that of a Ray cluster", value=address, remedy="add --engine ray")


def _check_team(
    name: str, workers: int, config: TrainConfig, jobs: int | None, gpus_a_run: float | None
) -> None:
    if jobs is not None:
        remedy = "leave out --jobs, or --workers"
        raise SettingError(
            "runs that workers make together go one after the other", value=f"--jobs {jobs}", remedy=remedy
        )
    if gpus_a_run is not None:
        remedy = "leave out --gpus-a-run, or --workers"
        raise SettingError(
            "each worker of a run has a GPU of its own", value=f"--gpus-a-run {gpus_a_run:g}", remedy=remedy
        )
    if name == "local" and config.device == "cuda" and (found := len(gpus())) < workers:
        raise SettingError(
            "each worker of a run has a GPU of its own",
            value=f"--workers {workers}, and {found} GPUs here",
            remedy="ask for no more workers than GPUs, or leave out --device cuda",
        )


def _team(name: str, workers: int, address: str | None, checkpoint_seconds: float) -> Engine:
    from ctrbench.runs.engines.team import RayTeamEngine, TeamEngine

    if name == "ray":
        return RayTeamEngine(workers, address=address, checkpoint_seconds=checkpoint_seconds)
    return TeamEngine(workers, checkpoint_seconds=checkpoint_seconds)


@dataclass(kw_only=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: str | None
    """The one GPU that it sees."""
    run: Run | None = None


class LocalEngine:
    """Runs side by side in processes of this machine."""

    def __init__(self, jobs: int, *, checkpoint_seconds: float, devices: Sequence[str] = ()) -> None:
        """Make an engine of that many processes, which see one each of the devices, in turn."""
        self.jobs, self.checkpoint_seconds, self.devices = jobs, checkpoint_seconds, tuple(devices)

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Make all runs and return their records in the order in which they ended."""
        waiting = deque(runs)
        records: list[RunRecord] = []
        workers = [self._hire(store, self._device(place)) for place in range(min(self.jobs, len(waiting)))]
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
                fresh = self._hire(store, worker.device)
                worker.process, worker.pipe = fresh.process, fresh.pipe
                _end(worker, message, watcher, records)
                continue
            if isinstance(message, CtrbenchError):
                raise message
            if isinstance(message, RunRecord):
                _end(worker, message, watcher, records)
            else:
                watcher.ticked(worker.run, message)

    def _device(self, place: int) -> str | None:
        return self.devices[place % len(self.devices)] if self.devices else None

    def _hire(self, store: RunStore, device: str | None) -> _Worker:
        # Spawned, not forked: torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, store, self.checkpoint_seconds, device)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process=process, pipe=ours, device=device)


def _end(worker: _Worker, record: RunRecord, watcher: Watcher, records: list[RunRecord]) -> None:
    assert worker.run is not None
    watcher.finished(worker.run, record)
    records.append(record)
    worker.run = None


def _lost(run: Run, store: RunStore, exitcode: int | None) -> RunRecord:
    from ctrbench.runs.engines.team import failed

    how = f"signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"
    hint = "; if memory ran out, fewer --jobs may help" if exitcode == -signal.SIGKILL else ""
    error = f"the process of the run died with {how}{hint}; run again to go on from its checkpoint"
    return failed(run, store, error)


def _tell(pipe: Connection, what: object) -> None:
    """Send to whoever asked for runs; if nobody is left, leave too: that is no failure of the run."""
    try:
        pipe.send(what)
    except (BrokenPipeError, ConnectionResetError):
        raise SystemExit("whoever asked for this run is gone") from None


def _work(pipe: Connection, store: RunStore, checkpoint_seconds: float, device: str | None = None) -> None:
    """Make the runs that come through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if device is not None:
        # Before anything asks CUDA what there is.
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    from ctrbench.runs.execute import execute

    while True:
        try:
            run = pipe.recv()
        except EOFError:
            return
        try:
            tell = partial(_tell, pipe)
            tell(execute(run, store, report=tell, checkpoint_seconds=checkpoint_seconds))
        except CtrbenchError as error:
            # Not a failure of the run, which would be a record, but of writing one: a full disk, say.
            _tell(pipe, error)
