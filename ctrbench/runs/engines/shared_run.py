"""One run executed by several workers, on this machine or on a Ray cluster.

`nn.exchange` has the exchange between workers, `train.distributed` starts them. The first worker writes the record; its
account of the machine holds the number of workers, which is not part of the run's key.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from threading import Thread
from typing import Any

import ctrbench
from ctrbench.errors import CtrbenchError, describe_exception
from ctrbench.nn.exchange import Workers
from ctrbench.runs.engines.protocol import Watcher
from ctrbench.runs.engines.ray_cluster import check_capacity
from ctrbench.runs.engines.ray_node import PluginSources, plugin_sources, prepare_on_node
from ctrbench.runs.execute import execute, run_secondary_worker
from ctrbench.runs.grid import Run
from ctrbench.runs.outcome import record_failure, write_record
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.distributed import WorkerDied, WorkerFailed, start_local, start_ray
from ctrbench.train.loop import Tick


class NodeNotReadyError(CtrbenchError):
    """A node lacks the data or the version of ctrbench that runs need."""


def execute_shared(
    run: Run, watcher: Watcher, *, store: RunStore, workers: int, checkpoint_seconds: float
) -> RunRecord:
    """Execute a run by processes of this machine; return its record."""
    if run.unsupported is not None:
        return execute(run, store)
    with _progress_listener(partial(watcher.ticked, run)) as address:
        try:
            record = start_local(
                run_worker, workers, run, store, checkpoint_seconds, address,
                device=run.key.train["device"],
            )  # fmt: skip
        except (CtrbenchError, WorkerFailed, WorkerDied) as error:
            return record_failure(run, store, _error_message(error))
    return _require_record(record)


def execute_shared_on_cluster(
    run: Run,
    _watcher: Watcher,
    *,
    ray: Any,  # noqa: ANN401  # the module
    store: RunStore,
    workers: int,
    checkpoint_seconds: float,
) -> RunRecord:
    """Execute a run by workers of a Ray cluster, which see one another's files in a shared folder or at a URL."""
    if run.unsupported is not None:
        return execute(run, store)
    device, threads = run.key.train["device"], run.key.train["threads"]
    check_capacity(ray, {"CPU": threads, "GPU": float(device == "cuda")}, workers)
    try:
        record = _require_record(
            start_ray(
                _run_worker_on_node, workers,
                run, plugin_sources(run), store, checkpoint_seconds, ctrbench.__version__,
                device=device, cpus=threads,
            )
        )  # fmt: skip
    except NodeNotReadyError:
        raise
    except (CtrbenchError, WorkerFailed, WorkerDied) as error:
        return record_failure(run, store, _error_message(error))
    # The first worker may have written the record to a folder that this machine does not see.
    write_record(record, store)
    return record


def _error_message(error: Exception) -> str:
    if isinstance(error, WorkerDied):
        return f"a worker died: {error}; run the same command again to resume"
    if isinstance(error, WorkerFailed):
        return f"a worker failed: {error}"
    return describe_exception(error)


def _require_record(record: RunRecord | None) -> RunRecord:
    assert record is not None, "the first worker returns the record"
    return record


def run_worker(
    workers: Workers, run: Run, store: RunStore, checkpoint_seconds: float, address: str
) -> RunRecord | None:
    """Run one worker of a run; return the record in the first worker and None in the others."""
    if workers.rank > 0:
        run_secondary_worker(run, store, workers)
        return None
    with _progress_sender(address) as progress:
        return execute(run, store, progress=progress, checkpoint_seconds=checkpoint_seconds, workers=workers)


def _run_worker_on_node(
    workers: Workers,
    run: Run,
    sources: PluginSources,
    store: RunStore,
    checkpoint_seconds: float,
    version: str,
) -> RunRecord | None:
    """Run one worker of a run on a node of a cluster."""
    try:
        run_on_node = prepare_on_node(run, sources, store, version)
    except CtrbenchError as error:
        raise NodeNotReadyError(error.rule, value=error.value, remedy=error.remedy) from None
    return run_worker(workers, run_on_node, store, checkpoint_seconds, "")


@contextmanager
def _progress_listener(progress: Callable[[Tick], None]) -> Iterator[str]:
    """Yield an address to which another process sends its training progress."""
    with tempfile.TemporaryDirectory(prefix="ctrbench-") as folder:
        address = str(Path(folder) / "ticks")
        with Listener(address, "AF_UNIX") as listener:
            thread = Thread(target=_listen, args=(listener, progress), daemon=True)
            thread.start()
            try:
                yield address
            finally:
                # Unblocks the listener if the process never connected.
                Client(address).close()
                thread.join()


def _listen(listener: Listener, progress: Callable[[Tick], None]) -> None:
    with listener.accept() as pipe:
        while True:
            try:
                progress(pipe.recv())
            except (EOFError, ConnectionError):
                return


@contextmanager
def _progress_sender(address: str) -> Iterator[Callable[[Tick], None] | None]:
    if not address:
        yield None
        return
    pipe = Client(address)
    assert isinstance(pipe, Connection)
    with pipe:
        yield pipe.send
