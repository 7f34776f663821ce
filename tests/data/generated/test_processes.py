from __future__ import annotations

import os

import pytest

from ctrbench.data.generated.processes import map_in_processes
from ctrbench.errors import DataError


def double(number: int) -> int:
    return 2 * number


def die(_number: int) -> int:
    os._exit(1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_function_is_applied_to_all_items(jobs: int) -> None:
    assert sorted(map_in_processes(jobs)(double, [1, 2, 3])) == [2, 4, 6]


def test_a_process_that_dies_is_one_clear_error() -> None:
    with pytest.raises(DataError, match=r"a process that generates rows died.*to resume"):
        list(map_in_processes(2)(die, [1, 2]))
