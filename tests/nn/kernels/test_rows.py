from __future__ import annotations

import numpy as np
import pytest
import torch

from ctrbench.nn.kernels.rows import (
    distinct_by_loops,
    distinct_by_tensors,
    group_rows,
    sum_by_index,
    sum_by_loops,
    sum_by_tensors,
)


def test_loops_and_tensors_sum_the_same() -> None:
    rows_nE = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    index_n = torch.randint(0, 7, (50,), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sum_by_loops(rows_nE, index_n, 9), sum_by_tensors(rows_nE, index_n, 9))


def test_loops_and_tensors_find_the_same_distinct_ids() -> None:
    ids_n = torch.tensor([7, 2, 7, 11, 2, 0], dtype=torch.int32)
    rows, inverse_n = distinct_by_loops(ids_n, np.full(12, -1, dtype=np.int32))
    padded_n, index_n = distinct_by_tensors(ids_n, spare_row=12)
    assert sorted(rows.tolist()) == [row for row in padded_n.tolist() if row < 12] == [0, 2, 7, 11]
    assert rows[inverse_n].tolist() == padded_n[index_n].tolist() == ids_n.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_keep_the_dtype(dtype: torch.dtype) -> None:
    with torch.no_grad():
        sums = sum_by_index(torch.ones(3, 2, dtype=dtype), torch.tensor([1, 1, 0]), 3)
    assert sums.dtype == dtype
    assert sums.tolist() == [[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]]


@pytest.mark.parametrize("ids", [[4], [0, 0, 2, 9, 2, 2], [3_000_000, 5, 3_000_000, 7, 5, 5]])
def test_groups_equal_those_of_numpy(ids: list[int]) -> None:
    group_B = np.array(ids, dtype=np.int32)
    present, counts, index, order = group_rows(group_B)
    expected, rows = np.unique(group_B, return_counts=True)
    assert dict(zip(present.tolist(), counts.tolist(), strict=True)) == dict(
        zip(expected.tolist(), rows.tolist(), strict=True)
    )
    assert np.array_equal(present[index], group_B)
    assert np.array_equal(order, np.argsort(index, kind="stable"))
    assert np.all(np.diff(np.floor(np.log2(counts))) <= 0)
