from __future__ import annotations

import numpy as np
import pytest
import torch

from ctrbench.train.tasks import (
    ShuffledRows,
    TaskDraws,
    Turns,
    inclusion,
    last_rows,
    num_earlier,
    rows_by_task,
    task_runs,
    task_weights,
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


def draws(
    ids: torch.Tensor, *, tau: float = 0.5, num_tasks: int = 4, earlier: int = 10, later: int = 6
) -> TaskDraws:
    return TaskDraws(
        ids, np.random.default_rng(0), num_tasks=num_tasks, earlier=earlier, later=later, tau=tau
    )


def test_drawn_tasks_are_distinct_and_later_rows_follow_earlier_ones() -> None:
    ids = torch.from_numpy(np.random.default_rng(1).permutation(np.repeat(range(6), [1, 9, 20, 40, 80, 150])))
    drawing = draws(ids)
    for _ in range(50):
        drawn = drawing.draw()
        assert len({int(ids[earlier[0]]) for earlier, _ in drawn}) == 4
        for earlier, later in drawn:
            rows = [*earlier, *later]
            own = rows_by_task(ids)[int(ids[rows[0]])]
            assert set(rows) <= {*own.tolist()}
            # Distinct, in time order, and all earlier rows before all later ones.
            assert rows == sorted(set(rows))
            assert (len(earlier), len(later)) == ((10, 6) if len(own) >= 16 else (5, 4))


def test_rows_of_a_task_are_not_adjacent_blocks() -> None:
    ((earlier, later),) = draws(torch.ones(1000), num_tasks=1).draw()
    assert np.diff(earlier).max() > 10
    assert np.diff(later).max() > 10


def test_the_cut_is_uniform_and_the_rows_on_its_sides_too() -> None:
    drawing = draws(torch.ones(6), num_tasks=1, earlier=2, later=1)
    found_earlier, found_later = np.zeros(6), np.zeros(6)
    for _ in range(4000):
        ((earlier, later),) = drawing.draw()
        found_earlier[earlier] += 1 / 4000
        found_later[later] += 1 / 4000
    # Cuts 2..5 have the probability 1/4; two of the rows before the cut are drawn, and one of those after it.
    expected_earlier, expected_later = np.zeros(6), np.zeros(6)
    for cut in range(2, 6):
        expected_earlier[:cut] += 1 / 4 * 2 / cut
        expected_later[cut:] += 1 / 4 / (6 - cut)
    np.testing.assert_allclose(found_earlier, expected_earlier, atol=0.03)
    np.testing.assert_allclose(found_later, expected_later, atol=0.03)


def test_every_row_but_the_first_ones_may_be_a_later_row() -> None:
    drawing = draws(torch.ones(200), num_tasks=1, earlier=10, later=10)
    found = np.zeros(200)
    for _ in range(4000):
        ((_, later),) = drawing.draw()
        found[later] += 1
    assert found[:10].sum() == 0
    # The first row that may be one has the probability 1/181 · 10/190 per draw.
    assert np.count_nonzero(found[10:] == 0) <= 2
    assert np.all(np.diff(found.reshape(10, 20).sum(1)) > 0)


def test_without_later_rows_all_rows_of_a_task_are_drawn_alike() -> None:
    drawing = draws(torch.ones(100), num_tasks=1, later=0)
    found = np.zeros(100)
    for _ in range(1000):
        ((earlier, later),) = drawing.draw()
        assert (len(earlier), len(later)) == (10, 0)
        found[earlier] += 1
    assert found.min() > 60
    assert found.max() < 140


@pytest.mark.parametrize(
    ("rows", "num_tasks", "tau", "expected"),
    [
        ([270, 30], 1, 1.0, [0.9, 0.1]),
        ([270, 30], 1, 0.5, [0.75, 0.25]),
        ([270, 30], 1, 0.0, [0.5, 0.5]),
        ([0, 400, 1, 100, 100], 2, 0.5, [0, 1, 0, 0.5, 0.5]),
        # 900 rows would have probability 1.2; the others share the second draw as 2 to 1 to 1.
        ([900, 400, 100, 100], 2, 1.0, [1, 2 / 3, 1 / 6, 1 / 6]),
        ([900, 400, 1], 4, 1.0, [1, 1, 0]),
    ],
)
def test_tasks_are_drawn_by_rows_to_the_power_of_tau(
    rows: list[int], num_tasks: int, tau: float, expected: list[float]
) -> None:
    chance = inclusion(np.array(rows), num_tasks=num_tasks, tau=tau)
    np.testing.assert_allclose(chance, expected)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_tasks_are_drawn_as_often_as_their_probability_says(tau: float) -> None:
    rows = np.array([90, 40, 10, 10, 2])
    drawing = draws(torch.from_numpy(np.repeat(range(5), rows)), tau=tau, num_tasks=2)
    drawn = np.concatenate([drawing._draw_tasks() for _ in range(4000)])
    chance = inclusion(rows, num_tasks=2, tau=tau)
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 4000, chance, atol=0.02)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_tasks", [1, 2, 4, 9])
def test_over_steps_a_task_weighs_by_its_rows(tau: float, num_tasks: int) -> None:
    rows = np.array([0, 90, 40, 1, 10, 10, 2])
    weights, chance = (made(rows, num_tasks=num_tasks, tau=tau) for made in (task_weights, inclusion))
    assert chance.sum() == pytest.approx(min(num_tasks, 5))
    np.testing.assert_allclose(chance * weights, [0, 90 / 152, 40 / 152, 0, 10 / 152, 10 / 152, 2 / 152])


def test_weights_are_rows_to_the_power_of_one_minus_tau() -> None:
    weights = task_weights(np.array([900, 400, 100]), num_tasks=1, tau=0.5)
    # 9/14 / (3/6), 4/14 / (2/6), 1/14 / (1/6).
    np.testing.assert_allclose(weights, np.array([3, 2, 1]) * 6 / 14)


@pytest.mark.parametrize(("rows", "expected"), [(50, 12), (16, 12), (8, 6), (5, 3), (2, 1)])
def test_a_small_task_is_divided_in_proportion(rows: int, expected: int) -> None:
    assert num_earlier(rows, 12, 4) == expected


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
