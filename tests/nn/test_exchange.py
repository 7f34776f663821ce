from __future__ import annotations

import pytest
import torch

from ctrbench.nn.exchange import Groups, Workers
from ctrbench.nn.routing import Routing


def test_each_row_of_a_batch_belongs_to_one_worker() -> None:
    parts = [Workers(rank=rank, size=3).cut(torch.tensor([7, 3, 5, 9])) for rank in range(3)]
    assert sorted(torch.cat([rows for rows, _ in parts]).tolist()) == [3, 5, 7, 9]
    assert [share for _, share in parts] == [0.5, 0.25, 0.25]


def test_a_worker_without_rows_gets_one_with_share_zero() -> None:
    rows, share = Workers(rank=1, size=2).cut(torch.tensor([7]))
    assert rows.tolist() == [7]
    assert share == 0.0


@pytest.mark.parametrize("num_rows", [0, 1, 7, 9])
def test_consecutive_rows_are_scored_by_one_worker_each(num_rows: int) -> None:
    parts = [list(range(num_rows))[Workers(rank=rank, size=3).slice(num_rows)] for rank in range(3)]
    assert [row for part in parts for row in part] == list(range(num_rows))


def test_groups_of_one_worker_are_those_of_its_rows() -> None:
    groups = Groups.of(Routing(torch.tensor([4, 2, 4])), None)
    assert dict(zip(groups.present_G.tolist(), groups.counts_G.tolist(), strict=True)) == {2: 1, 4: 2}
    sums_GN = torch.tensor([[1.0], [2.0]])
    assert groups.own(groups.sum(sums_GN)) is sums_GN
