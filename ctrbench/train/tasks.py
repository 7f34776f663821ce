"""Domains as tasks: the rows of each, windows and passes over them, and fair turns among tasks.

Learners that train on one domain at a time draw their batches with these parts. All randomness comes from the generator
that `Learner.order` receives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch


def rows_by_task(indicator_B: torch.Tensor) -> dict[int, np.ndarray]:
    """Return the row indices of each task, ascending; tasks are ascending too."""
    indicator = indicator_B.cpu().numpy()
    rows = np.argsort(indicator, kind="stable")
    tasks, starts = np.unique(indicator[rows], return_index=True)
    return dict(zip(tasks.tolist(), np.split(rows, starts[1:]), strict=True))


def task_runs(indicator_B: torch.Tensor) -> list[tuple[int, slice]]:
    """Return the runs of equal ids, each as the id and its rows."""
    tasks, counts = torch.unique_consecutive(indicator_B, return_counts=True)
    ends = torch.cumsum(counts, 0)
    runs = zip(tasks.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
    return [(task, slice(start, end)) for task, start, end in runs]


def trainable_tasks(indicator_B: torch.Tensor, *, with_unseen: bool = True) -> dict[int, np.ndarray]:
    """Return the row indices of the tasks with at least two rows; raises `ValueError` if there is none.

    Without `with_unseen`, the unseen domain (id 0) is no task.
    """
    rows = rows_by_task(indicator_B)
    tasks = {task: own for task, own in rows.items() if len(own) > 1 and (task or with_unseen)}
    if not tasks:
        raise ValueError("at least one domain must have two training rows for training by domains")
    return tasks


def last_rows(indicator_B: torch.Tensor, *, count: int, smallest: int) -> np.ndarray:
    """Return the last `count` row indices of each task with at least `smallest` rows, task by task."""
    rows = [own[-count:] for own in rows_by_task(indicator_B).values() if len(own) >= smallest]
    return np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)


class TaskWindows:
    """Draws tasks with probability ∝ rows^tau, and a window of consecutive rows of each."""

    def __init__(
        self,
        indicator_B: torch.Tensor,
        generator: np.random.Generator,
        *,
        num_tasks: int,
        width: int,
        tau: float,
    ) -> None:
        """`num_tasks` tasks are drawn at a time, or all if there are fewer; `width` is the most rows of a window."""
        self.rows = list(trainable_tasks(indicator_B).values())
        chance = np.array([len(rows) for rows in self.rows], dtype=np.float64) ** tau
        self.chance = chance / chance.sum()
        self.num_tasks, self.width = min(num_tasks, len(self.rows)), width
        self.generator = generator

    def draw(self) -> list[np.ndarray]:
        """Return one window per drawn task; tasks are distinct."""
        drawn = self.generator.choice(len(self.rows), self.num_tasks, replace=False, p=self.chance)
        return [self._draw_window(self.rows[task]) for task in drawn]

    def _draw_window(self, rows: np.ndarray) -> np.ndarray:
        start = int(self.generator.integers(max(0, len(rows) - self.width) + 1))
        return rows[start : start + self.width]


class ShuffledRows:
    """Rows in shuffled order, shuffled again when fewer remain than are requested."""

    def __init__(self, rows: np.ndarray, generator: np.random.Generator) -> None:
        self.rows, self.generator = rows, generator
        self.position = len(rows)

    def take(self, count: int) -> np.ndarray:
        """Return the next `count` rows, which are distinct."""
        if self.position + count > len(self.rows):
            self.rows, self.position = self.generator.permutation(self.rows), 0
        self.position += count
        return self.rows[self.position - count : self.position]


class Turns:
    """Deals tasks in rounds of distinct ones, so that all have equally many turns in the long run.

    Each pass over all tasks has a random order. Tasks whose turn did not come in a round are dealt first in the next.
    """

    def __init__(
        self, tasks: Sequence[int], size: int, generator: np.random.Generator, *, waiting: Iterable[int] = ()
    ) -> None:
        """Deal `size` tasks per round, beginning with those of `waiting` that are among the tasks."""
        self.tasks, self.size, self.generator = list(tasks), size, generator
        self.current: list[int] = []
        """Tasks of the round that wait for their turn."""
        self.later = [task for task in waiting if task in self.tasks]
        """Tasks of later rounds, as far as they are drawn."""

    @property
    def waiting(self) -> list[int]:
        """Tasks that wait for their turn, in order."""
        return [*self.current, *self.later]

    def deal(self) -> list[int]:
        """Return the distinct tasks of the next round."""
        self.later = self.waiting
        if len(self.later) < self.size:
            drawn = self.generator.permutation(self.tasks).tolist()
            self.later += sorted(drawn, key=self.later.__contains__)
        self.current, self.later = self.later[: self.size], self.later[self.size :]
        return self.current

    def finish(self, tasks: Iterable[int]) -> None:
        """Note that these tasks had their turn."""
        finished = set(tasks)
        self.current = [task for task in self.current if task not in finished]
