from __future__ import annotations

import pytest
import torch

from ctrbench.nn.gather import mean_rows, rows_at


def test_rows_by_index_have_summed_gradients() -> None:
    rows_UE = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    gathered = rows_at(rows_UE, torch.tensor([2, 0, 2, 2]))
    assert gathered.tolist() == [[5.0, 6.0], [1.0, 2.0], [5.0, 6.0], [5.0, 6.0]]
    torch.autograd.backward((gathered * torch.tensor([[1.0], [10.0], [100.0], [1000.0]])).sum())
    assert rows_UE.grad is not None
    assert rows_UE.grad.tolist() == [[10.0, 10.0], [0.0, 0.0], [1101.0, 1101.0]]


def test_rows_by_index_have_a_second_derivative() -> None:
    rows_UE = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda rows: rows_at(rows, torch.tensor([2, 0, 2])).pow(3), rows_UE)


@pytest.mark.parametrize("lengths", [[2, 0, 1], [0], [3]])
def test_means_of_lists_are_zero_for_empty_ones(lengths: list[int]) -> None:
    rows = torch.arange(1.0, 1.0 + sum(lengths))[:, None] * torch.tensor([[1.0, 10.0]])
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    parts = torch.split(rows, lengths)
    expected = [part.mean(0) if len(part) else torch.zeros(2) for part in parts]
    assert torch.equal(mean_rows(rows, offsets), torch.stack(expected))
