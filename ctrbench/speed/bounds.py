"""Lower bounds of the time of a step: its arithmetic and its memory traffic at the best speed of this machine.

The speeds are measured on this machine with the threads of the step. Arithmetic is the matrix products of the step,
forward and backward, padding included, as torch counts them. Memory traffic is the minimum that every implementation
needs (`Work.bytes`). Not included are all other computations (activations, gates, norms, Adam, finding distinct ids),
the traffic of activations and gradients, and products outside torch's own operations. Real steps therefore take longer
than both bounds, except that tables and weights in a cache can beat the bandwidth of main memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ctrbench.cost.products import counted_flops
from ctrbench.data.batches import Batch
from ctrbench.nn.optim import Optimizer
from ctrbench.nn.tables import RowTable
from ctrbench.speed.phases import replaced
from ctrbench.speed.training import EndlessTraining, wait

COUNTED_STEPS = 3
"""Minimum number of steps over which work is averaged, since the batches of some methods differ."""
TOUCHES = 6
"""Memory accesses per parameter: the weight and both moments, each read and written."""
REPEATS = 7
"""Number of measurements of a speed, of which the best counts."""


@dataclass(frozen=True, kw_only=True)
class Roofs:
    """Roofline of this machine: its best arithmetic speed and memory bandwidth."""

    gflops: float
    """10^9 floating-point operations per second in the product of two square float32 matrices."""
    gigabytes_per_second: float
    """10^9 bytes per second, read and written, in copying a block far larger than any cache."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Mean arithmetic and minimum memory traffic of a step."""

    rows: float
    flops: float
    """Floating-point operations in matrix products, forward and backward."""
    bytes: float
    """Bytes of dense weights and of read table rows, with both moments, read and written; inputs and labels, read."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Lower bounds of the time of a step, in milliseconds."""

    arithmetic_ms: float
    bandwidth_ms: float

    @property
    def ms(self) -> float:
        """Larger of the two bounds."""
        return max(self.arithmetic_ms, self.bandwidth_ms)


def bounds(work: Work, roofs: Roofs, *, rows: float) -> Bounds:
    """Return the bounds of a step of `rows` rows, with work proportional to rows."""
    scale = 1e-6 * rows / work.rows
    return Bounds(
        arithmetic_ms=scale * work.flops / roofs.gflops,
        bandwidth_ms=scale * work.bytes / roofs.gigabytes_per_second,
    )


def measure_roofs(device: torch.device, *, sizes: tuple[int, ...] = (), copied_bytes: int = 1 << 28) -> Roofs:
    """Measure the best arithmetic speed, over square matrices of the widths `sizes`, and the memory bandwidth."""
    sizes = sizes or ((4096, 8192) if device.type == "cuda" else (512, 1024, 2048))
    return Roofs(
        gflops=max(_product_gflops(size, device) for size in sizes),
        gigabytes_per_second=_copied_gigabytes(copied_bytes, device),
    )


def _product_gflops(size: int, device: torch.device) -> float:
    left, out = torch.ones(size, size, device=device), torch.empty(size, size, device=device)
    return 2e-9 * size**3 / _shortest_seconds(lambda: torch.mm(left, left, out=out), device)


def _copied_gigabytes(copied_bytes: int, device: torch.device) -> float:
    source = torch.ones(copied_bytes // 4, device=device)
    target = torch.zeros_like(source)
    return 2e-9 * copied_bytes / _shortest_seconds(lambda: target.copy_(source), device)


def _shortest_seconds(call: Callable[[], object], device: torch.device) -> float:
    shortest = float("inf")
    for _ in range(REPEATS):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def count_work(training: EndlessTraining, *, seconds: float = 0.0) -> Work:
    """Make at least `COUNTED_STEPS` steps, for `seconds`, and return their mean work."""
    rows = flops = moved_bytes = steps = 0
    started = time.perf_counter()
    while steps < COUNTED_STEPS or time.perf_counter() - started < seconds:
        batch = training.next_batch()
        with counted_flops() as counter, _bytes_read(training.optimizer) as read:
            rows += training.step(batch).rows
        flops += counter.get_total_flops()
        moved_bytes += _input_bytes(batch) + TOUCHES * (_dense_bytes(training.model) + sum(read.values()))
        steps += 1
    return Work(rows=rows / steps, flops=flops / steps, bytes=moved_bytes / steps)


@contextmanager
def _bytes_read(optimizer: Optimizer) -> Iterator[dict[RowTable, int]]:
    """Record the bytes of the distinct rows that are read from each table."""
    num_bytes: dict[RowTable, int] = {}

    def wrap(read: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def recording(table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
            num_bytes[table] = _row_bytes(table, rows_U)
            return read(table, rows_U)

        return recording

    with replaced(optimizer, "read", wrap):
        yield num_bytes


def _row_bytes(table: RowTable, rows_U: torch.Tensor) -> int:
    # On a GPU, whose number of distinct rows is not waited for, unused entries hold a row beyond the table's end.
    rows = len(torch.unique(rows_U[rows_U < len(table.weight)]))
    return rows * table.weight[:1].nbytes


def _dense_bytes(model: nn.Module) -> int:
    tables = {id(module.weight) for module in model.modules() if isinstance(module, RowTable)}
    return sum(weight.nbytes for weight in model.parameters() if id(weight) not in tables)


def _input_bytes(batch: Batch) -> int:
    """Return the bytes of ids, numbers and labels; domain and indicator are derived from the ids."""
    bags: tuple[Any, ...] = tuple(part for bag in batch.bags for part in bag)
    return sum(part.nbytes for part in (batch.ids_BF, batch.numeric_BK, batch.label_B, *bags))
