"""Runs on a Ray cluster: each is a task on whichever node has room for it, with the records that one machine makes.

Nothing of a run lives on its node alone: data, checkpoints and records stand in the store, which all nodes see. So a
worker or a node that dies costs what was done since the last checkpoint, and the run goes on elsewhere. We try again
ourselves rather than let Ray do so, to tell the user, and to tell a run that gets on from one that kills its workers.
Ray is imported when it is needed, and kept quiet.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import ctrbench
from ctrbench.data.home import dataset_folder
from ctrbench.data.manifest import MANIFEST
from ctrbench.errors import CtrbenchError, DataError, SettingError
from ctrbench.plugins.finder import Plugin, find
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import replacing

if TYPE_CHECKING:
    from ctrbench.runs.engines.local import Watcher

RETRIES = 3
"""Deaths in a row, without progress between them, after which a run or a task is given up."""
POLL_SECONDS = 0.2
KNOCK_SECONDS = 5.0
STOP_SECONDS = 10.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
"""No report to Ray's makers, and none of its own lines between ours; a user's setting goes first."""
T = TypeVar("T")
R = TypeVar("R")


class RayEngine:
    """Runs side by side on the nodes of a Ray cluster."""

    def __init__(
        self,
        *,
        address: str | None = None,
        checkpoint_seconds: float,
        cpus_a_run: float = 1,
        gpus_a_run: float = 0.0,
        memory_a_run: int = 0,
        jobs: int | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Make an engine; see `make_engine`. The default address is that of the cluster this machine belongs to."""
        self.address, self.checkpoint_seconds, self.jobs, self.say = address, checkpoint_seconds, jobs, say
        self.needs = {"CPU": cpus_a_run, "GPU": gpus_a_run, "memory": memory_a_run}

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Make all runs and return their records in the order in which they ended."""
        with cluster(self.address) as ray:
            return _Sweep(ray, self, store, watcher).make(runs)


def ray_map(
    function: Callable[[T], R], items: Iterable[T], *, address: str | None = None, cpus: float = 1
) -> Iterator[R]:
    """Yield function(item) of every item as they come, made on the nodes of a Ray cluster.

    An item whose worker dies is tried again, so the function must bear being called twice. What it raises is raised.
    """
    with cluster(address) as ray:
        needs = {"CPU": cpus}
        _refuse_too_large(ray, needs)
        apply, shared = ray.remote(_apply).options(**_options(needs)), ray.put(function)
        tasks = (_Task(item=item) for item in items)
        pool = _Pool(ray, tasks, lambda task: apply.remote(shared, task.item), lambda: 2 * _slots(ray, needs))
        try:
            while pool.is_busy:
                for task, outcome in pool.poll():
                    if not _is_death(ray, outcome):
                        yield _value(outcome)
                        continue
                    task.deaths += 1
                    if task.deaths > RETRIES:
                        raise DataError(
                            _gave_up(ray, outcome), value=task.item, remedy="see to the nodes' memory"
                        )
                    pool.again(task)
        finally:
            pool.cancel()


# The cluster.


@contextmanager
def cluster(address: str | None = None) -> Iterator[Any]:
    """Yield Ray connected to a cluster; a connection that the process has already is used and left open."""
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    wanted = address or os.environ.get("RAY_ADDRESS") or "auto"
    _knock(wanted)
    try:
        ray.init(address=wanted, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise _unreachable(wanted, why, "if it asks for a token, set RAY_AUTH_MODE=token here too") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _import_ray() -> Any:  # noqa: ANN401  # the module, which may not be installed
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        remedy = "pip install 'ctrbench[ray]', on every node"
        raise SettingError("the Ray engine needs Ray", remedy=remedy) from None
    return ray


def _knock(address: str) -> None:
    """See that somebody listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, why: str, hint: str = "") -> SettingError:
    remedies = ("start one with: ray start --head", "name one with --address host:6379", hint)
    remedy = "; ".join(one for one in remedies if one)
    return SettingError("no Ray cluster answers", value=f"{address} ({why.rstrip('.')})", remedy=remedy)


def check_room(ray: Any, needs: dict[str, float], workers: int) -> None:  # noqa: ANN401
    """Refuse more workers than there is room for: Ray would wait for ever."""
    if (found := _slots(ray, needs)) < workers:
        rule, remedy = (
            "the cluster has too little room for the workers of a run",
            "start more nodes, or ask for less",
        )
        raise SettingError(rule, value=f"{workers} asked for, room for {found}", remedy=remedy)


def _slots(ray: Any, needs: dict[str, float]) -> int:  # noqa: ANN401
    """Return how many tasks with these needs the nodes that are alive could hold."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        min(int(node.get(name, 0) / amount) for name, amount in needs.items() if amount) for node in nodes
    )


def _refuse_too_large(ray: Any, needs: dict[str, float]) -> None:  # noqa: ANN401
    if _slots(ray, needs) == 0:
        units = {"CPU": f"{needs['CPU']:g} cores", "GPU": f"{needs.get('GPU', 0):g} GPUs"}
        units["memory"] = f"{needs.get('memory', 0) / 1e9:.1f} GB"
        asked = ", ".join(units[name] for name, amount in needs.items() if amount)
        remedy = "start a larger node, or ask for less"
        raise SettingError("no node of the cluster has room for one run", value=asked, remedy=remedy)


def _options(needs: dict[str, float]) -> dict[str, Any]:
    """Return what Ray is told of a task: it takes so much of a node, and Ray never tries it again."""
    return {
        "num_cpus": needs["CPU"],
        "num_gpus": needs.get("GPU") or None,
        "memory": needs.get("memory") or None,
        "max_retries": 0,
    }


# Tasks under way.


@dataclass(kw_only=True, eq=False)
class _Task(Generic[T]):
    item: T
    deaths: int = 0
    """Workers that died of it in a row."""
    number: int = 0
    """Of the try; what is heard of earlier ones does not count."""
    step: int = 0
    """How far training got in any try."""
    is_known: bool = False
    """The watcher has been told that it started."""


class _Pool(Generic[T]):
    """Tasks of a cluster, no more of them under way than there is room for."""

    def __init__(
        self,
        ray: Any,  # noqa: ANN401
        tasks: Iterable[_Task[T]],
        start: Callable[[_Task[T]], Any],
        width: Callable[[], int],
    ) -> None:
        self.ray, self.start, self.width = ray, start, width
        self.tasks = iter(tasks)
        self.waiting: deque[_Task[T]] = deque()
        self.flying: dict[Any, _Task[T]] = {}
        self._refill()

    @property
    def is_busy(self) -> bool:
        """Whether anything is to be done yet."""
        return bool(self.waiting or self.flying)

    def poll(self) -> Iterator[tuple[_Task[T], Any]]:
        """Start what there is room for, wait a little and yield what has ended: its result, or Ray's error."""
        width = self.width()
        while self.waiting and len(self.flying) < width:
            task = self.waiting.popleft()
            self.flying[self.start(task)] = task
            self._refill()
        for ref in self._ended():
            task = self.flying.pop(ref)
            try:
                yield task, self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                yield task, error

    def again(self, task: _Task[T]) -> None:
        """Put a task before all that wait."""
        task.number += 1
        self.waiting.appendleft(task)

    def cancel(self) -> None:
        """Kill what is under way, and wait until it is dead."""
        for ref in self.flying:
            self.ray.cancel(ref, force=True)
        if self.flying:
            self.ray.wait(list(self.flying), num_returns=len(self.flying), timeout=STOP_SECONDS)
        self.flying.clear()

    def _refill(self) -> None:
        if not self.waiting:
            self.waiting.extend(task for task in (next(self.tasks, None),) if task is not None)

    def _ended(self) -> list[Any]:
        if not self.flying:
            time.sleep(POLL_SECONDS)
            return []
        refs = list(self.flying)
        first, _ = self.ray.wait(refs, timeout=POLL_SECONDS)
        ended, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0) if first else ([], None)
        return list(ended)


def _is_death(ray: Any, outcome: object) -> bool:  # noqa: ANN401
    """Tell the death of a worker or node from what a task raised itself."""
    errors = ray.exceptions
    own = (errors.RayTaskError, errors.TaskCancelledError)
    return isinstance(outcome, errors.RayError) and not isinstance(outcome, own)


def _death(ray: Any, outcome: object) -> str:  # noqa: ANN401
    if isinstance(outcome, ray.exceptions.NodeDiedError):
        return "its node died"
    if isinstance(outcome, ray.exceptions.OutOfMemoryError):
        return "its node ran out of memory"
    return "its worker died"


def _gave_up(ray: Any, outcome: object) -> str:  # noqa: ANN401
    return f"given up after {RETRIES + 1} tries, the last of which ended because {_death(ray, outcome)}"


def _value(outcome: Any) -> Any:  # noqa: ANN401
    """Return a result; raise what came in its place."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _apply(function: Callable[[T], R], item: T) -> R | CtrbenchError:
    """Call a function on a node; a user's error comes back as a value, without Ray's wrapping."""
    try:
        return function(item)
    except CtrbenchError as error:
        return error


# A sweep.


class _Desk:
    """Where workers leave word of their runs; it lives beside the command, so it outlasts every other node."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, int, bytes]] = []

    def tell(self, digest: str, number: int, tick: bytes) -> None:
        self.messages.append((digest, number, tick))

    def take(self) -> list[tuple[str, int, bytes]]:
        taken, self.messages = self.messages, []
        return taken


def _open_desk(ray: Any) -> Any:  # noqa: ANN401
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(_Desk)
        .options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
        .remote()
    )


class _Sweep:
    """Runs under way on a cluster, and who hears of them."""

    def __init__(self, ray: Any, engine: RayEngine, store: RunStore, watcher: Watcher) -> None:  # noqa: ANN401
        _refuse_too_large(ray, engine.needs)
        self.ray, self.engine, self.watcher = ray, engine, watcher
        self.store = as_seen(store)
        self.remote = ray.remote(_make)
        self.desk = _open_desk(ray)
        self.records: list[RunRecord] = []
        self.made_before: set[str] = set()
        """Digests of runs that have a finished record and are made again for what else they leave."""
        self.is_waiting = False

    def make(self, runs: Iterable[Run]) -> list[RunRecord]:
        """Make all runs; however it ends, none of them is under way any more."""
        pool = _Pool(self.ray, (_Task(item=run) for run in runs), self._start, self._width)
        try:
            while pool.is_busy:
                ended = list(pool.poll())
                # What was told before a run ended is heard before its end.
                self._listen([*pool.flying.values(), *(task for task, _ in ended)])
                for task, outcome in ended:
                    self._end(pool, task, outcome)
        finally:
            pool.cancel()
            self.ray.kill(self.desk)
        return self.records

    def _start(self, task: _Task[Run]) -> Any:  # noqa: ANN401
        run, files = task.item, carried(task.item)
        if task.number == 0 and self._finished(run) is not None:
            self.made_before.add(run.key.digest)
        return self.remote.options(**_options(self.engine.needs), name=run.key.run).remote(
            run,
            files,
            self.store,
            self.engine.checkpoint_seconds,
            self.desk,
            task.number,
            ctrbench.__version__,
        )

    def _width(self) -> int:
        slots = _slots(self.ray, self.engine.needs)
        if slots == 0 and not self.is_waiting:
            self.engine.say("no node of the cluster has room for a run any more; waiting for one")
        self.is_waiting = slots == 0
        return min(slots, self.engine.jobs or slots)

    def _listen(self, tasks: Iterable[_Task[Run]]) -> None:
        known = {(task.item.key.digest, task.number): task for task in tasks}
        for digest, number, message in self.ray.get(self.desk.take.remote()):
            task, tick = known.get((digest, number)), pickle.loads(message)
            if task is None:
                continue
            self._tell_start(task)
            if tick is not None:
                if tick.step > task.step:
                    task.step, task.deaths = tick.step, 0
                self.watcher.ticked(task.item, tick)

    def _tell_start(self, task: _Task[Run]) -> None:
        if not task.is_known:
            task.is_known = True
            self.watcher.started(task.item)

    def _end(self, pool: _Pool[Run], task: _Task[Run], outcome: Any) -> None:  # noqa: ANN401
        if _is_death(self.ray, outcome) and task.item.key.digest not in self.made_before:
            # Its worker may have died on the way back, all done.
            outcome = self._finished(task.item) or outcome
        if _is_death(self.ray, outcome):
            task.deaths += 1
            if task.deaths <= RETRIES:
                what = f"{_death(self.ray, outcome)}; goes on elsewhere from its last checkpoint"
                self.engine.say(f"{task.item.label}: {what}")
                pool.again(task)
                return
            from ctrbench.runs.outcome import failed_record

            outcome = failed_record(task.item, _gave_up(self.ray, outcome))
        elif isinstance(outcome, self.ray.exceptions.RayTaskError):
            why = str(outcome).strip().splitlines()[-1]
            remedy = "install the same ctrbench, Python and torch on all of them"
            raise SettingError("a node of the cluster cannot make runs", value=why, remedy=remedy)
        record: RunRecord = _value(outcome)
        self._keep(record)
        self._tell_start(task)
        self.watcher.finished(task.item, record)
        self.records.append(record)

    def _finished(self, run: Run) -> RunRecord | None:
        known = self.store.find(run.key)
        return known if known is not None and known.status == "finished" else None

    def _keep(self, record: RunRecord) -> None:
        """Write a record that is not there yet: the worker's folder of records may be another than ours."""
        known = self.store.find(record.key)
        if known is None or (known.status != "finished" and known != record):
            self.store.write(record)


# What goes to a node with a run.

Files = tuple[bytes | None, bytes | None]
"""The files of method and backbone, of those that nodes may not have."""


def as_seen(store: RunStore) -> RunStore:
    """Return the store by names that are the same whatever folder a node's worker starts in."""
    return RunStore(results=store.results.absolute(), home=store.home.absolute())


def carried(run: Run) -> Files:
    """Return the files that go with a run."""
    return _content(run.method), _content(run.backbone)


def _content(plugin: Plugin) -> bytes | None:
    """Return the file of a plug-in that nodes may not have."""
    return None if plugin.is_builtin else plugin.file.read_bytes()


# On a node.


def _make(
    run: Run,
    files: Files,
    store: RunStore,
    checkpoint_seconds: float,
    desk: Any,  # noqa: ANN401  # the handle of a _Desk
    number: int,
    version: str,
) -> RunRecord | CtrbenchError:
    """Make one run; an error that is not the run's own, such as a full disk, comes back as a value."""
    from ctrbench.runs.execute import execute

    def tell(tick: object) -> None:
        # As bytes, so that the desk need not import torch.
        desk.tell.remote(run.key.digest, number, pickle.dumps(tick))

    tell(None)
    try:
        here = at_hand(run, files, store, version)
        return execute(here, store, report=tell, checkpoint_seconds=checkpoint_seconds)
    except CtrbenchError as error:
        # A worker that was taken for dead may have come first.
        known = store.find(run.key)
        return known if known is not None and known.status == "finished" else error


def at_hand(run: Run, files: Files, store: RunStore, version: str) -> Run:
    """Return the run with its plug-ins as they are on this node; raise what keeps the node from making it."""
    _check_node(run, store, version)
    return replace(run, method=_placed(run.method, files[0]), backbone=_placed(run.backbone, files[1]))


def _check_node(run: Run, store: RunStore, version: str) -> None:
    node = socket.gethostname()
    if ctrbench.__version__ != version:
        raise SettingError(
            "all nodes need the same ctrbench",
            value=f"{ctrbench.__version__} on {node}, {version} here",
            remedy=f"install ctrbench {version} there",
        )
    folder = dataset_folder(run.key.dataset, store.home)
    if not (folder / MANIFEST).exists():
        remedy = "let CTRBENCH_HOME be a folder that all nodes share, or a URL"
        raise DataError("a node does not see the prepared data", value=f"{folder} on {node}", remedy=remedy)


def _placed(plugin: Plugin, content: bytes | None) -> Plugin:
    """Return the plug-in with its file on this node."""
    if content is None:
        return find(plugin.kind, plugin.name)
    file = _plugin_folder() / plugin.kind.name / f"{plugin.name}.py"
    with replacing(file) as part:
        part.write_bytes(content)
    return replace(plugin, file=file)


@cache
def _plugin_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="ctrbench-plugins-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
