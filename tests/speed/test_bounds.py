from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ctrbench.nn.tables import RowTable
from ctrbench.speed.bounds import COUNTED_STEPS, Roofs, Work, bounds, count_work, measure_roofs
from ctrbench.speed.training import EndlessTraining, SpeedCase

MakeCase = Callable[..., SpeedCase]
INPUTS = 23 * 4
"""Width of z: 23 fields, embeddings of 4."""


def work_of(case: SpeedCase) -> Work:
    """Return the mean work of the first steps."""
    return count_work(EndlessTraining(case))


def test_products_of_a_tower_by_hand(make_case: MakeCase) -> None:
    work = work_of(make_case(backbone="dnn[hidden=8-4]", batch_size=200))
    weights = INPUTS * 8 + 8 * 4 + 4 * 1
    # A multiplication and an addition; the product forward, and those with the input's and the weight's gradient.
    assert work.flops == 2 * 3 * 200 * weights
    assert work.rows == 200


def test_bytes_by_hand(make_case: MakeCase) -> None:
    case = make_case(backbone="dnn[hidden=8-4]", batch_size=200)
    work, data = work_of(case), case.workload.data
    touched = sum(len(data.ids_BF[:, index].unique()) for index in range(23))
    dense = (INPUTS * 8 + 8) + (8 * 4 + 4) + (4 * 1 + 1)
    inputs = 200 * (23 + 1)
    # Four bytes per number; weight and two moments, read and written.
    assert work.bytes == 4 * (inputs + 6 * dense + 6 * touched * 4)


def test_weights_of_a_domain_count_where_it_occurs(make_case: MakeCase) -> None:
    case = make_case("star", batch_size=200)
    twin, numbers = EndlessTraining(case), 0
    tables = [module for module in twin.model.net.modules() if isinstance(module, RowTable)]
    own = sum(table.weight[0].numel() for table in tables)
    for batch in (twin.next_batch() for _ in range(COUNTED_STEPS)):
        touched = 4 * sum(len(batch.ids_BF[:, index].unique()) for index in range(23))
        present = len(batch.indicator_B.unique())
        numbers += len(batch) * 24 + 6 * (twin.model.num_parameters()["dense"] + touched + own * present)
    assert own > 0
    assert work_of(case).bytes == 4 * numbers / COUNTED_STEPS


def test_bounds_by_hand() -> None:
    work, roofs = Work(rows=10, flops=3e9, bytes=4e9), Roofs(gflops=60.0, gigabytes_per_second=20.0)
    lower = bounds(work, roofs, rows=10)
    assert (lower.arithmetic_ms, lower.bandwidth_ms) == (pytest.approx(50.0), pytest.approx(200.0))
    assert lower.ms == pytest.approx(200.0)
    assert bounds(work, roofs, rows=5).ms == pytest.approx(100.0)


def test_roofs_are_measured() -> None:
    roofs = measure_roofs(torch.device("cpu"), sizes=(16, 32), copied_bytes=1 << 16)
    assert roofs.gflops > 0
    assert roofs.gigabytes_per_second > 0


def test_counting_leaves_no_wrapper_on_the_optimizer(make_case: MakeCase) -> None:
    training = EndlessTraining(make_case())
    count_work(training)
    assert "read" not in vars(training.optimizer)
