"""Domains as tasks: the rows of each, random draws of tasks and rows, and fair turns among tasks.

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


def inclusion(rows_M: np.ndarray, *, num_tasks: int, tau: float) -> np.ndarray:
    """Return each task's probability to be among the `num_tasks` distinct tasks of a step, (M,) float64.

    It is ∝ rows^tau, except that it is at most 1; the other tasks then share the rest. Tasks with fewer than two rows
    have probability 0.
    """
    size_M = np.where(rows_M > 1, rows_M.astype(np.float64) ** tau, 0.0)
    is_certain_M = np.zeros(len(rows_M), dtype=bool)
    if num_tasks >= np.count_nonzero(size_M):
        return (size_M > 0).astype(np.float64)
    while True:
        rest = num_tasks - np.count_nonzero(is_certain_M)
        chance_M = np.where(is_certain_M, 1.0, rest * size_M / size_M[~is_certain_M].sum())
        is_above_M = ~is_certain_M & (chance_M >= 1.0)
        if not is_above_M.any():
            return chance_M
        is_certain_M |= is_above_M


def task_weights(rows_M: np.ndarray, *, num_tasks: int, tau: float) -> np.ndarray:
    """Return weights (M,) under which the loss of a step's tasks is on average the loss of all tasks by their rows.

    A task of `n_p` rows has the weight `n_p / Σ n`, divided by its probability to be drawn (`inclusion`), which is
    ∝ n_p^(1 - tau) where that probability is below 1. The weights of a step's tasks sum to 1 on average. A task that is
    never drawn has weight 0.
    """
    chance_M = inclusion(rows_M, num_tasks=num_tasks, tau=tau)
    shares_M = np.where(chance_M > 0, rows_M, 0) / max(1, rows_M[chance_M > 0].sum())
    weights_M: np.ndarray = shares_M / np.where(chance_M > 0, chance_M, 1.0)
    return weights_M


def num_earlier(rows: int, earlier: int, later: int) -> int:
    """Return how many of the rows drawn from a task are earlier ones; in proportion if it has too few for all."""
    return max(1, min(rows, earlier + later) * earlier // (earlier + later))


class TaskDraws:
    """Draws distinct tasks with probability ∝ rows^tau, and random rows of each before and after a cut in time.

    A task of n rows in time order, from which e earlier and l later rows are drawn, is cut before row c, with c uniform
    from e..n-l. The earlier rows are drawn uniformly, without replacement, from the rows before the cut, and the later
    ones from the rows after it. So later rows of the task are drawn as later ones more often, the last ones about
    ln(n/l) times as often as the mean. The first e rows of a task are never later rows. Of a task with fewer than
    e + l rows, all rows are drawn, divided in proportion.
    """

    def __init__(
        self,
        indicator_B: torch.Tensor,
        generator: np.random.Generator,
        *,
        num_tasks: int,
        earlier: int,
        later: int,
        tau: float,
    ) -> None:
        """`num_tasks` tasks are drawn at a time, or all if there are fewer; `later` may be 0."""
        self.rows = list(trainable_tasks(indicator_B).values())
        counts = np.array([len(rows) for rows in self.rows])
        self.num_tasks, self.earlier, self.later = min(num_tasks, len(self.rows)), earlier, later
        self.chance = inclusion(counts, num_tasks=num_tasks, tau=tau)
        self.generator = generator

    def draw(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the earlier and the later rows of each drawn task, each in time order."""
        return [self._draw_rows(self.rows[task]) for task in self._draw_tasks()]

    def _draw_tasks(self) -> np.ndarray:
        """Draw distinct tasks, each with exactly its probability: systematic sampling in random order."""
        order = self.generator.permutation(len(self.rows))
        points = self.generator.random() + np.arange(self.num_tasks)
        index = np.searchsorted(np.cumsum(self.chance[order]), points, side="right")
        # The sum of the probabilities may be rounded down.
        drawn: np.ndarray = order[index.clip(max=len(order) - 1)]
        return drawn

    def _draw_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.later:
            return self._sample(rows, min(self.earlier, len(rows))), rows[:0]
        earlier = num_earlier(len(rows), self.earlier, self.later)
        later = min(self.later, len(rows) - earlier)
        cut = earlier + int(self.generator.integers(len(rows) - earlier - later + 1))
        return self._sample(rows[:cut], earlier), self._sample(rows[cut:], later)

    def _sample(self, rows: np.ndarray, count: int) -> np.ndarray:
        drawn = self.generator.choice(len(rows), count, replace=False, shuffle=False)
        return rows[np.sort(drawn)]


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
