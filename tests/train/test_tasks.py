from __future__ import annotations

import numpy as np
import pytest
import torch

from ctrbench.train.tasks import (
    ShuffledRows,
    TaskWindows,
    Turns,
    last_rows,
    rows_by_task,
    task_runs,
    trainable_tasks,
)

TASKS = torch.tensor([2, 0, 2, 1, 0, 2], dtype=torch.int32)


def as_lists(rows: dict[int, np.ndarray]) -> dict[int, list[int]]:
    return {task: own.tolist() for task, own in rows.items()}


def test_rows_of_a_task_are_in_order() -> None:
    assert as_lists(rows_by_task(TASKS)) == {0: [1, 4], 1: [3], 2: [0, 2, 5]}


def test_runs_are_slices_of_equal_ids() -> None:
    ids = torch.tensor([3, 3, 1, 3])
    assert task_runs(ids) == [(3, slice(0, 2)), (1, slice(2, 3)), (3, slice(3, 4))]


@pytest.mark.parametrize(("with_unseen", "tasks"), [(True, [0, 2]), (False, [2])])
def test_a_trainable_task_has_two_rows(with_unseen: bool, tasks: list[int]) -> None:
    assert list(trainable_tasks(TASKS, with_unseen=with_unseen)) == tasks


def test_training_without_a_task_of_two_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="two training rows for training by domains"):
        trainable_tasks(torch.tensor([0, 0, 1, 2]), with_unseen=False)


def test_last_rows_are_those_of_large_enough_tasks() -> None:
    assert last_rows(TASKS, count=2, smallest=2).tolist() == [1, 4, 2, 5]
    assert last_rows(TASKS, count=2, smallest=4).tolist() == []


def windows(
    ids: torch.Tensor, *, tau: float = 0.5, seed: int = 0, num_tasks: int = 4, width: int = 16
) -> TaskWindows:
    return TaskWindows(ids, np.random.default_rng(seed), num_tasks=num_tasks, width=width, tau=tau)


def test_drawn_tasks_are_distinct_and_windows_consecutive() -> None:
    ids = torch.from_numpy(np.random.default_rng(1).permutation(np.repeat(range(6), [1, 9, 20, 40, 80, 150])))
    drawing = windows(ids)
    for _ in range(50):
        drawn = drawing.draw()
        assert len({int(ids[rows[0]]) for rows in drawn}) == 4
        for rows in drawn:
            own = rows_by_task(ids)[int(ids[rows[0]])]
            first = int(np.searchsorted(own, rows[0]))
            np.testing.assert_array_equal(rows, own[first : first + len(rows)])
            assert len(rows) == min(16, len(own)) > 1


@pytest.mark.parametrize(("tau", "share"), [(1.0, 0.9), (0.5, 0.75), (0.0, 0.5)])
def test_tasks_are_drawn_by_rows_to_the_power_of_tau(tau: float, share: float) -> None:
    drawing = windows(torch.from_numpy(np.repeat([1, 2], [270, 30])), tau=tau, num_tasks=1, width=2)
    first = [bool(drawing.draw()[0][0] < 270) for _ in range(1000)]
    assert np.mean(first) == pytest.approx(share, abs=0.05)


def test_shuffled_rows_are_all_used_before_any_repeats() -> None:
    rows = ShuffledRows(np.arange(100, 120), np.random.default_rng(0))
    first, second = ([*rows.take(10), *rows.take(10)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(100, 120))
    assert first not in (second, sorted(first))
    # Two rows are left, fewer than three.
    rows.take(18)
    assert len({*rows.take(3).tolist()}) == 3


def deal(turns: Turns, rounds: int) -> list[list[int]]:
    dealt = []
    for _ in range(rounds):
        dealt.append(turns.deal())
        turns.finish(dealt[-1])
    return dealt


def test_rounds_have_distinct_tasks_and_passes_cover_all() -> None:
    dealt = deal(Turns(range(1, 6), 4, np.random.default_rng(0)), 100)
    assert {len(set(tasks)) for tasks in dealt} == {4}
    order = [task for tasks in dealt for task in tasks]
    passes = [tuple(order[start : start + 5]) for start in range(0, 400, 5)]
    assert {tuple(sorted(tasks)) for tasks in passes} == {(1, 2, 3, 4, 5)}
    assert len(set(passes)) > 20


def test_tasks_that_had_no_turn_come_first_in_the_next_round() -> None:
    turns = Turns(range(1, 7), 3, np.random.default_rng(0))
    first, *others = turns.deal()
    turns.finish([first])
    assert turns.waiting[:2] == others
    assert turns.deal()[:2] == others


def test_waiting_tasks_continue_in_other_turns() -> None:
    generator = np.random.default_rng(3)
    turns = Turns(range(1, 7), 4, generator)
    turns.finish(turns.deal()[:1])
    waiting = turns.waiting
    assert Turns(range(1, 7), 4, generator, waiting=[9, *waiting]).waiting == waiting
