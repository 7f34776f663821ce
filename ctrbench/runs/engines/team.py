"""One run made by several processes together, on this machine or on a Ray cluster; runs one after the other.

What the processes exchange stands in `nn.exchange`, how they start in `train.distributed`. The first of them makes the
record; those that the run's key does not know of are named in the record's account of the machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import ctrbench
from ctrbench.errors import CtrbenchError
from ctrbench.nn.exchange import Workers
from ctrbench.runs.engines.ray import Files, as_seen, at_hand, carried, check_room, cluster
from ctrbench.runs.execute import execute, run_secondary_worker
from ctrbench.runs.grid import Run
from ctrbench.runs.outcome import failed_record, write_record
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.distributed import WorkerDied, WorkerFailed, start_local, start_ray
from ctrbench.train.loop import Tick

if TYPE_CHECKING:
    from ctrbench.runs.engines.local import Watcher


class TeamEngine:
    """Makes each run by `size` processes of this machine."""

    def __init__(self, size: int, *, checkpoint_seconds: float) -> None:
        self.size, self.checkpoint_seconds = size, checkpoint_seconds

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Make all runs, one after the other, and return their records."""
        records = []
        for run in runs:
            watcher.started(run)
            record = self._make(run, store, watcher)
            watcher.finished(run, record)
            records.append(record)
        return records

    def _make(self, run: Run, store: RunStore, watcher: Watcher) -> RunRecord:
        if run.unsupported is not None:
            return execute(run, store)
        with _heard(partial(watcher.ticked, run)) as address:
            try:
                record = start_local(
                    together, self.size, run, store, self.checkpoint_seconds, address,
                    device=run.key.train["device"],
                )  # fmt: skip
            except (CtrbenchError, WorkerFailed, WorkerDied) as error:
                return failed(run, store, _words(error))
        return _of_first(record)


class RayTeamEngine:
    """Makes each run by `size` workers of a Ray cluster; what they see of one another is a shared folder or a URL."""

    def __init__(self, size: int, *, address: str | None, checkpoint_seconds: float) -> None:
        self.size, self.address, self.checkpoint_seconds = size, address, checkpoint_seconds

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Make all runs, one after the other, and return their records."""
        records = []
        with cluster(self.address) as ray:
            for run in runs:
                watcher.started(run)
                record = self._make(ray, run, as_seen(store))
                watcher.finished(run, record)
                records.append(record)
        return records

    def _make(self, ray: Any, run: Run, store: RunStore) -> RunRecord:  # noqa: ANN401
        if run.unsupported is not None:
            return execute(run, store)
        device, threads = run.key.train["device"], run.key.train["threads"]
        check_room(ray, {"CPU": threads, "GPU": float(device == "cuda")}, self.size)
        try:
            record = _of_first(
                start_ray(
                    _together_on_node, self.size,
                    run, carried(run), store, self.checkpoint_seconds, ctrbench.__version__,
                    device=device, cpus=threads,
                )
            )  # fmt: skip
        except _UnfitNode:
            raise
        except (CtrbenchError, WorkerFailed, WorkerDied) as error:
            return failed(run, store, _words(error))
        # The folder of records that the first worker sees may be another than ours.
        write_record(record, store)
        return record


class _UnfitNode(CtrbenchError):
    """Why a node can make no run at all."""


def _words(error: Exception) -> str:
    if isinstance(error, WorkerDied):
        return f"a worker died: {error}; run again to go on from its checkpoint"
    return (
        f"a worker failed: {error}" if isinstance(error, WorkerFailed) else f"{type(error).__name__}: {error}"
    )


def failed(run: Run, store: RunStore, error: str) -> RunRecord:
    """Record that a run failed, and return what stands there: one that ended well, or said the same itself, stays."""
    known = store.find(run.key)
    if known is not None and known.status == "failed" and known.error and error.endswith(known.error):
        return known
    record = failed_record(run, error)
    write_record(record, store)
    known = store.find(run.key)
    return known if known is not None and known.status == "finished" else record


def _of_first(record: RunRecord | None) -> RunRecord:
    assert record is not None, "the first worker makes the record"
    return record


def together(
    workers: Workers, run: Run, store: RunStore, checkpoint_seconds: float, address: str
) -> RunRecord | None:
    """Be one of the workers of a run; the first returns its record."""
    if workers.rank > 0:
        run_secondary_worker(run, store, workers)
        return None
    with _telling(address) as report:
        return execute(run, store, report=report, checkpoint_seconds=checkpoint_seconds, workers=workers)


def _together_on_node(
    workers: Workers, run: Run, files: Files, store: RunStore, checkpoint_seconds: float, version: str
) -> RunRecord | None:
    """Be one of the workers of a run on a node of a cluster."""
    try:
        here = at_hand(run, files, store, version)
    except CtrbenchError as error:
        raise _UnfitNode(error.rule, value=error.value, remedy=error.remedy) from None
    return together(workers, here, store, checkpoint_seconds, "")


@contextmanager
def _heard(hear: Callable[[Tick], None]) -> Iterator[str]:
    """Yield an address at which another process may tell how it goes."""
    with tempfile.TemporaryDirectory(prefix="ctrbench-") as folder:
        address = str(Path(folder) / "ticks")
        with Listener(address, "AF_UNIX") as listener:
            thread = Thread(target=_hear, args=(listener, hear), daemon=True)
            thread.start()
            try:
                yield address
            finally:
                # Whoever waits for a process that never came is let go.
                Client(address).close()
                thread.join()


def _hear(listener: Listener, hear: Callable[[Tick], None]) -> None:
    with listener.accept() as pipe:
        while True:
            try:
                hear(pipe.recv())
            except (EOFError, ConnectionError):
                return


@contextmanager
def _telling(address: str) -> Iterator[Callable[[Tick], None] | None]:
    if not address:
        yield None
        return
    pipe = Client(address)
    assert isinstance(pipe, Connection)
    with pipe:
        yield pipe.send
