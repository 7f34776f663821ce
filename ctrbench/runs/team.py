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
from typing import TYPE_CHECKING

from ctrbench.errors import CtrbenchError
from ctrbench.nn.exchange import Workers
from ctrbench.runs.execute import assist, execute, failed_record, keep
from ctrbench.runs.grid import Run
from ctrbench.runs.ray_engine import cluster
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.distributed import WorkerDied, start_local, start_ray
from ctrbench.train.loop import Tick

if TYPE_CHECKING:
    from ctrbench.runs.engine import Watcher


class TeamEngine:
    """Makes each run by `size` processes of this machine."""

    def __init__(self, size: int, *, checkpoint_seconds: float) -> None:
        self.size, self.checkpoint_seconds = size, checkpoint_seconds

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Make all runs, one after the other, and return their records."""
        records = []
        for run in runs:
            watcher.started(run)
            with _heard(partial(watcher.ticked, run)) as address:
                record = self._make(run, store, address)
            watcher.finished(run, record)
            records.append(record)
        return records

    def _make(self, run: Run, store: RunStore, address: str) -> RunRecord:
        device = run.key.train["device"]
        try:
            return _of_first(
                start_local(together, self.size, run, store, self.checkpoint_seconds, address, device=device)
            )
        except CtrbenchError as refusal:
            return _failed(run, store, f"{type(refusal).__name__}: {refusal}")
        except WorkerDied as death:
            how = str(death).strip().splitlines()[-1]
            return _failed(run, store, f"a worker died: {how}; run again to go on from its checkpoint")


class RayTeamEngine:
    """Makes each run by `size` workers of a Ray cluster; what they see of one another is a shared folder or a URL."""

    def __init__(self, size: int, *, address: str | None, checkpoint_seconds: float) -> None:
        self.size, self.address, self.checkpoint_seconds = size, address, checkpoint_seconds

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Make all runs, one after the other, and return their records."""
        records = []
        with cluster(self.address):
            for run in runs:
                watcher.started(run)
                train = run.key.train
                try:
                    record = start_ray(
                        together, self.size, run, store, self.checkpoint_seconds, "",
                        device=train["device"], cpus=train["threads"],
                    )  # fmt: skip
                    records.append(_of_first(record))
                except CtrbenchError as refusal:
                    records.append(_failed(run, store, f"{type(refusal).__name__}: {refusal}"))
                watcher.finished(run, records[-1])
        return records


def _failed(run: Run, store: RunStore, error: str) -> RunRecord:
    record = failed_record(run, error)
    keep(record, store)
    return record


def _of_first(record: RunRecord | None) -> RunRecord:
    assert record is not None, "the first worker makes the record"
    return record


def together(
    workers: Workers, run: Run, store: RunStore, checkpoint_seconds: float, address: str
) -> RunRecord | None:
    """Be one of the workers of a run; the first returns its record."""
    if workers.rank > 0:
        assist(run, store, workers)
        return None
    with _telling(address) as report:
        return execute(run, store, report=report, checkpoint_seconds=checkpoint_seconds, workers=workers)


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
