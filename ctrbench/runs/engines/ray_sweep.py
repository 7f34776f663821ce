"""Many runs on a Ray cluster: submission, progress messages, retries, and their records.

No state of a run lives on its node alone: data, checkpoints and records are in the store, which all nodes see. A worker
or node that dies therefore costs the work since the last checkpoint, and the run resumes on another node.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ctrbench
from ctrbench.errors import SettingError
from ctrbench.runs.engines.protocol import Watcher
from ctrbench.runs.engines.ray_cluster import check_node_capacity, num_slots, task_options
from ctrbench.runs.engines.ray_node import execute_on_node, plugin_sources, with_absolute_paths
from ctrbench.runs.engines.ray_pool import (
    RETRIES,
    Pool,
    Task,
    death_reason,
    gave_up_message,
    is_death,
    result_of,
)
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore


class ProgressMailbox:
    """Actor that collects the workers' progress messages; it runs on the node of the command."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, int, bytes]] = []

    def put(self, digest: str, attempt: int, tick: bytes) -> None:
        """Add the message of an attempt of a run: a pickled tick, or a pickled None at its start."""
        self.messages.append((digest, attempt, tick))

    def take(self) -> list[tuple[str, int, bytes]]:
        """Return the messages since the last call."""
        messages, self.messages = self.messages, []
        return messages


def _start_mailbox(ray: Any) -> Any:  # noqa: ANN401
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(ProgressMailbox)
        .options(num_cpus=0, scheduling_strategy=this_node, max_restarts=-1, max_task_retries=-1)
        .remote()
    )


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Resources per run and limits of a sweep."""

    needs: dict[str, float]
    """Cores ("CPU"), GPUs ("GPU") and bytes ("memory") per run."""
    checkpoint_seconds: float
    jobs: int | None = None
    """Most runs in parallel; None for as many as the cluster can hold."""
    notify: Callable[[str], None] = lambda _line: None
    """Receives warnings for the user."""


class Sweep:
    """Runs on a cluster, and the watcher that receives their progress."""

    def __init__(self, ray: Any, settings: SweepSettings, store: RunStore, watcher: Watcher) -> None:  # noqa: ANN401
        self.ray, self.settings, self.watcher = ray, settings, watcher
        self.store = with_absolute_paths(store)
        self.mailbox: Any = None
        self.records: list[RunRecord] = []
        self.repeated: set[str] = set()
        """Digests of runs that have a finished record and are repeated for their predictions."""
        self.is_waiting = False

    def run(self, runs: Iterable[Run]) -> list[RunRecord]:
        """Execute all runs; when it returns or raises, none is running any more."""
        check_node_capacity(self.ray, self.settings.needs)
        self.mailbox = _start_mailbox(self.ray)
        remote = self.ray.remote(execute_on_node)
        tasks = (Task(item=run) for run in runs)
        pool = Pool(self.ray, tasks, lambda task: self._submit(remote, task), self._num_free_slots)
        try:
            while pool.is_busy:
                completed = list(pool.poll())
                # Progress messages of a run are handled before its completion.
                self.receive([*pool.running.values(), *(task for task, _ in completed)])
                for task, outcome in completed:
                    self.complete(pool, task, outcome)
        finally:
            pool.cancel()
            self.ray.kill(self.mailbox)
        return self.records

    def _submit(self, remote: Any, task: Task[Run]) -> Any:  # noqa: ANN401
        run, sources = task.item, plugin_sources(task.item)
        if task.attempt == 0 and self._finished_record(run) is not None:
            self.repeated.add(run.key.digest)
        return remote.options(**task_options(self.settings.needs), name=run.key.run).remote(
            run,
            sources,
            self.store,
            self.settings.checkpoint_seconds,
            self.mailbox,
            task.attempt,
            ctrbench.__version__,
        )

    def _num_free_slots(self) -> int:
        slots = num_slots(self.ray, self.settings.needs)
        if slots == 0 and not self.is_waiting:
            self.settings.notify("no node can currently fit a run; waiting")
        self.is_waiting = slots == 0
        return min(slots, self.settings.jobs or slots)

    def receive(self, tasks: Iterable[Task[Run]]) -> None:
        """Pass the progress messages of these tasks to the watcher; ignore those of earlier attempts."""
        current = {(task.item.key.digest, task.attempt): task for task in tasks}
        for digest, attempt, message in self.ray.get(self.mailbox.take.remote()):
            task, tick = current.get((digest, attempt)), pickle.loads(message)
            if task is None:
                continue
            self._announce(task)
            if tick is not None:
                if tick.step > task.step:
                    task.step, task.deaths = tick.step, 0
                self.watcher.ticked(task.item, tick)

    def _announce(self, task: Task[Run]) -> None:
        if not task.is_announced:
            task.is_announced = True
            self.watcher.started(task.item)

    def complete(self, pool: Pool[Run], task: Task[Run], outcome: Any) -> None:  # noqa: ANN401
        """Store the record of a completed task, or retry a task whose worker died."""
        if is_death(self.ray, outcome) and task.item.key.digest not in self.repeated:
            # The worker may have died after it wrote the record.
            outcome = self._finished_record(task.item) or outcome
        if is_death(self.ray, outcome):
            task.deaths += 1
            if task.deaths <= RETRIES:
                reason = death_reason(self.ray, outcome)
                self.settings.notify(
                    f"{task.item.label}: {reason}; resuming elsewhere from the last checkpoint"
                )
                pool.retry(task)
                return
            from ctrbench.runs.outcome import failed_record

            outcome = failed_record(task.item, gave_up_message(self.ray, outcome))
        elif isinstance(outcome, self.ray.exceptions.RayTaskError):
            reason = str(outcome).strip().splitlines()[-1]
            remedy = "install the same versions of ctrbench, Python and torch on all nodes"
            raise SettingError("a node of the cluster cannot execute runs", value=reason, remedy=remedy)
        record: RunRecord = result_of(outcome)
        self._write_if_new(record)
        self._announce(task)
        self.watcher.finished(task.item, record)
        self.records.append(record)

    def _finished_record(self, run: Run) -> RunRecord | None:
        record = self.store.find(run.key)
        return record if record is not None and record.status == "finished" else None

    def _write_if_new(self, record: RunRecord) -> None:
        """Write a record unless it exists; the worker may have written it to a folder of its own node."""
        existing = self.store.find(record.key)
        if existing is None or (existing.status != "finished" and existing != record):
            self.store.write(record)
