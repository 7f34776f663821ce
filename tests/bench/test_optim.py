"""A step of Adam on some rows of an embedding table: ours deferred, torch's on every row, torch's lazy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torch.nn import functional

from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.tables import RowTable

WIDTH, TOUCHED, BATCHES = 16, 256, 16
Step = Callable[[torch.Tensor], None]


def deferred(weight: torch.Tensor) -> Step:
    table = RowTable(weight, "embedding")
    optimizer = Optimizer(table, AdamConfig())

    def step(rows_U: torch.Tensor) -> None:
        optimizer.begin()
        torch.autograd.backward(optimizer.read(table, rows_U).sum())
        optimizer.step()

    return step


def of_torch(
    weight: torch.Tensor, kind: type[torch.optim.Optimizer], *, is_sparse: bool, **kind_of: bool
) -> Step:
    table = nn.Parameter(weight)
    optimizer = kind([table], **kind_of)

    def step(rows_U: torch.Tensor) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(functional.embedding(rows_U, table, sparse=is_sparse).sum())
        optimizer.step()

    return step


STEPS: dict[str, Callable[[torch.Tensor], Step]] = {
    "deferred": deferred,
    "torch-dense": lambda weight: of_torch(weight, torch.optim.Adam, is_sparse=False),
    "torch-dense-fused": lambda weight: of_torch(weight, torch.optim.Adam, is_sparse=False, fused=True),
    "torch-sparse": lambda weight: of_torch(weight, torch.optim.SparseAdam, is_sparse=True),
}


@pytest.mark.parametrize("rule", STEPS)
@pytest.mark.parametrize("rows", [200_808, 2_000_000])
def test_a_step(benchmark: BenchmarkFixture, rows: int, rule: str) -> None:
    benchmark.group = f"Adam on {TOUCHED} of {rows:,} rows of {WIDTH}"
    generator = torch.Generator().manual_seed(0)
    step = STEPS[rule](torch.randn(rows, WIDTH, generator=generator))
    batches = cycle([torch.randperm(rows, generator=generator)[:TOUCHED] for _ in range(BATCHES)])
    benchmark.pedantic(lambda: step(next(batches)), rounds=2 * BATCHES, warmup_rounds=3)
