from __future__ import annotations

from itertools import pairwise

import pytest

from ctrbench.controls.equal_cost import MAX_WIDTH, grouped_by_cost, widths_at_cost


def products(widths: tuple[int, ...]) -> int:
    """Multiply-adds of a tower on 10 inputs with one output."""
    sizes = [10, *widths, 1]
    return sum(a * b for a, b in pairwise(sizes))


@pytest.mark.parametrize("cost", [400, 900, 20_000, 1_234_567])
def test_the_nearest_cost_that_is_not_below(cost: int) -> None:
    widths = widths_at_cost((16, 8, 5), cost, products)
    assert widths is not None
    assert products(widths) >= cost
    assert products((widths[0] - 4, widths[1] - 2, widths[2] - 1)) < cost
    assert widths[0] / 16 == pytest.approx(widths[1] / 8, rel=0.2)
    assert products(widths) < 1.25 * cost


def test_even_widths_stay_even() -> None:
    for cost in range(400, 4_000, 100):
        widths = widths_at_cost((16, 8, 5), cost, products)
        assert widths is not None
        assert [width % 2 for width in widths[:2]] == [0, 0]


def test_no_widths_for_a_cost_that_there_is_already_or_that_no_widths_have() -> None:
    assert widths_at_cost((16, 8), products((16, 8)), products) is None
    assert widths_at_cost((16, 8), products((16, 8)) + 1, products) is not None
    assert widths_at_cost((16,), 12 * MAX_WIDTH, products) is None


def test_groups_span_at_most_five_percent() -> None:
    costs = [("a", 100), ("b", 105), ("c", 106), ("d", 111), ("e", 112)]
    assert grouped_by_cost(costs) == [(105, ["a", "b"]), (111, ["c", "d"]), (112, ["e"])]
