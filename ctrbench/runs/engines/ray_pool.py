"""A pool of tasks on a Ray cluster that retries tasks whose worker or node died.

Retries are made here, not by Ray, so that the user is told and a task that makes progress is distinguished from one
that kills its workers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ctrbench.errors import CtrbenchError, DataError
from ctrbench.runs.engines.ray_cluster import check_node_capacity, connect, num_slots, task_options

RETRIES = 3
"""Deaths in a row, without progress between them, after which a task is given up."""
POLL_SECONDS = 0.2
STOP_SECONDS = 10.0
T = TypeVar("T")
R = TypeVar("R")


@dataclass(kw_only=True, eq=False)
class Task(Generic[T]):
    """An item to compute, and the history of its attempts."""

    item: T
    deaths: int = 0
    """Workers that died in a row."""
    attempt: int = 0
    """Index of the current attempt; messages of earlier attempts are ignored."""
    step: int = 0
    """Largest training step reached in any attempt."""
    is_announced: bool = False
    """Whether the watcher has been told that the task started."""


class Pool(Generic[T]):
    """Tasks on a cluster, of which no more are submitted than the cluster can hold."""

    def __init__(
        self,
        ray: Any,  # noqa: ANN401
        tasks: Iterable[Task[T]],
        submit: Callable[[Task[T]], Any],
        capacity: Callable[[], int],
    ) -> None:
        self.ray, self.submit, self.capacity = ray, submit, capacity
        self.tasks = iter(tasks)
        self.waiting: deque[Task[T]] = deque()
        self.running: dict[Any, Task[T]] = {}
        self._refill()

    @property
    def is_busy(self) -> bool:
        """Whether any task is waiting or running."""
        return bool(self.waiting or self.running)

    def poll(self) -> Iterator[tuple[Task[T], Any]]:
        """Submit waiting tasks, wait shortly, and yield completed tasks with their result or Ray's error."""
        capacity = self.capacity()
        while self.waiting and len(self.running) < capacity:
            task = self.waiting.popleft()
            self.running[self.submit(task)] = task
            self._refill()
        for ref in self._completed_tasks():
            task = self.running.pop(ref)
            try:
                yield task, self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                yield task, error

    def retry(self, task: Task[T]) -> None:
        """Put a task at the front of the queue for another attempt."""
        task.attempt += 1
        self.waiting.appendleft(task)

    def cancel(self) -> None:
        """Kill the running tasks and wait until they are dead."""
        for ref in self.running:
            self.ray.cancel(ref, force=True)
        if self.running:
            self.ray.wait(list(self.running), num_returns=len(self.running), timeout=STOP_SECONDS)
        self.running.clear()

    def _refill(self) -> None:
        if not self.waiting:
            self.waiting.extend(task for task in (next(self.tasks, None),) if task is not None)

    def _completed_tasks(self) -> list[Any]:
        if not self.running:
            time.sleep(POLL_SECONDS)
            return []
        refs = list(self.running)
        first, _ = self.ray.wait(refs, timeout=POLL_SECONDS)
        completed, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0) if first else ([], None)
        return list(completed)


def is_death(ray: Any, outcome: object) -> bool:  # noqa: ANN401
    """Return whether an outcome is the death of a worker or node, and not an error that the task raised."""
    errors = ray.exceptions
    own = (errors.RayTaskError, errors.TaskCancelledError)
    return isinstance(outcome, errors.RayError) and not isinstance(outcome, own)


def death_reason(ray: Any, outcome: object) -> str:  # noqa: ANN401
    """Return the reason why a worker died, for messages."""
    if isinstance(outcome, ray.exceptions.NodeDiedError):
        return "node died"
    if isinstance(outcome, ray.exceptions.OutOfMemoryError):
        return "node ran out of memory"
    return "worker died"


def gave_up_message(ray: Any, outcome: object) -> str:  # noqa: ANN401
    """Describe why a task is not retried any more."""
    return f"gave up after {RETRIES + 1} attempts; last failure: {death_reason(ray, outcome)}"


def result_of(outcome: Any) -> Any:  # noqa: ANN401
    """Return a result; raise an error that was returned in its place."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _apply_on_node(function: Callable[[T], R], item: T) -> R | CtrbenchError:
    """Call a function on a node; return a `CtrbenchError` as a value, so that Ray does not wrap it."""
    try:
        return function(item)
    except CtrbenchError as error:
        return error


def ray_map(
    function: Callable[[T], R], items: Iterable[T], *, address: str | None = None, cpus: float = 1
) -> Iterator[R]:
    """Yield function(item) for every item in the order of completion, computed on the nodes of a Ray cluster.

    An item whose worker dies is retried, so the function must be idempotent. Its errors are raised.
    """
    with connect(address) as ray:
        needs = {"CPU": cpus}
        check_node_capacity(ray, needs)
        apply, shared = ray.remote(_apply_on_node).options(**task_options(needs)), ray.put(function)
        tasks = (Task(item=item) for item in items)
        pool = Pool(
            ray, tasks, lambda task: apply.remote(shared, task.item), lambda: 2 * num_slots(ray, needs)
        )
        try:
            while pool.is_busy:
                for task, outcome in pool.poll():
                    if not is_death(ray, outcome):
                        yield result_of(outcome)
                        continue
                    task.deaths += 1
                    if task.deaths > RETRIES:
                        remedy = "check the memory of the nodes"
                        raise DataError(gave_up_message(ray, outcome), value=task.item, remedy=remedy)
                    pool.retry(task)
        finally:
            pool.cancel()
