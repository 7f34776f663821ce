"""The two bounds of a step: what the machine needs at least for its arithmetic, and for its bytes.

Both come from figures of this machine, measured here and now with as many threads as the step has. Arithmetic is the
matrix products that the step makes, forward and backward, padding included, as torch counts them. Bytes are those that
no implementation can do without (`Work.bytes`). Left out: everything else that is computed (activations, gates, norms,
Adam itself, finding distinct ids), activations and gradients on their way through memory, and products that are
not made by torch's own operations. Real steps are therefore above both bounds; one whose tables and weights
stay in a cache may still beat the bandwidth bound, which is that of main memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ctrbench.data.batches import Batch
from ctrbench.nn.optim import Optimizer
from ctrbench.nn.tables import RowTable
from ctrbench.speed.phases import replaced
from ctrbench.speed.training import Training, wait

COUNTED_STEPS = 3
"""Steps over which work is averaged at least; batches of some methods differ."""
TOUCHES = 6
"""Weight and both moments, each read and written."""
REPEATS = 7

Shape = tuple[int, ...]


def _product(left: Shape, right: Shape, *_: object, **__: object) -> int:
    return 2 * math.prod(left) * (right[-1] if len(right) > 1 else 1)


def _added_product(_: Shape, left: Shape, right: Shape, *__: object, **___: object) -> int:
    return _product(left, right)


_aten = torch.ops.aten
MORE_PRODUCTS = {
    **dict.fromkeys((_aten.mv, _aten.dot, _aten.vdot), _product),
    **dict.fromkeys(
        (_aten.addmm_, _aten.baddbmm_, _aten.addbmm, _aten.addbmm_, _aten.addmv, _aten.addmv_), _added_product
    ),
}
"""Products that torch's counter leaves out, and how to count them from shapes."""


@dataclass(frozen=True, kw_only=True)
class Roofs:
    """What this machine does at best."""

    gflops: float
    """10^9 floating-point operations a second in the product of two square float32 matrices."""
    gigabytes_per_second: float
    """10^9 bytes a second, read and written, in copying a block far larger than a cache."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a step cannot do without, on average."""

    rows: float
    flops: float
    """Floating-point operations in matrix products, forward and backward."""
    bytes: float
    """Dense weights and touched table rows with both moments, read and written; the batch's inputs and labels, read."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Milliseconds that a step takes at least."""

    arithmetic_ms: float
    bandwidth_ms: float

    @property
    def ms(self) -> float:
        """The larger of the two."""
        return max(self.arithmetic_ms, self.bandwidth_ms)


def bounds(work: Work, roofs: Roofs, *, rows: float) -> Bounds:
    """Hold the work of a step of that many rows against the machine, taking work to go with rows."""
    scale = 1e-6 * rows / work.rows
    return Bounds(
        arithmetic_ms=scale * work.flops / roofs.gflops,
        bandwidth_ms=scale * work.bytes / roofs.gigabytes_per_second,
    )


def measure_roofs(device: torch.device, *, sizes: tuple[int, ...] = (), copied_bytes: int = 1 << 28) -> Roofs:
    """Measure both, the best of several repeats; `sizes` are the widths of the matrices tried."""
    sizes = sizes or ((4096, 8192) if device.type == "cuda" else (512, 1024, 2048))
    return Roofs(
        gflops=max(_product_gflops(size, device) for size in sizes),
        gigabytes_per_second=_copied_gigabytes(copied_bytes, device),
    )


def _product_gflops(size: int, device: torch.device) -> float:
    left, out = torch.ones(size, size, device=device), torch.empty(size, size, device=device)
    return 2e-9 * size**3 / _least_seconds(lambda: torch.mm(left, left, out=out), device)


def _copied_gigabytes(copied_bytes: int, device: torch.device) -> float:
    source = torch.ones(copied_bytes // 4, device=device)
    target = torch.zeros_like(source)
    return 2e-9 * copied_bytes / _least_seconds(lambda: target.copy_(source), device)


def _least_seconds(call: Callable[[], object], device: torch.device) -> float:
    least = float("inf")
    for _ in range(REPEATS):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        least = min(least, time.perf_counter() - started)
    return least


def count_work(training: Training, *, seconds: float = 0.0) -> Work:
    """Make steps for some seconds, a few at least, and count what they do."""
    rows = flops = moved = steps = 0
    started = time.perf_counter()
    while steps < COUNTED_STEPS or time.perf_counter() - started < seconds:
        batch = training.next_batch()
        with counted_flops() as counter, _rows_read(training.optimizer) as read:
            rows += training.step(batch).rows
        flops += counter.get_total_flops()
        moved += _input_bytes(batch) + TOUCHES * (_dense_bytes(training.model) + sum(read.values()))
        steps += 1
    return Work(rows=rows / steps, flops=flops / steps, bytes=moved / steps)


def counted_flops() -> FlopCounterMode:
    """Return a context that counts the floating-point operations of matrix products, in place or not."""
    return FlopCounterMode(display=False, custom_mapping=MORE_PRODUCTS)


@contextmanager
def _rows_read(optimizer: Optimizer) -> Iterator[dict[RowTable, int]]:
    """Note the bytes of the distinct rows that are read of each table."""
    found: dict[RowTable, int] = {}

    def wrap(read: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def noting(table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
            found[table] = _row_bytes(table, rows_U)
            return read(table, rows_U)

        return noting

    with replaced(optimizer, "read", wrap):
        yield found


def _row_bytes(table: RowTable, rows_U: torch.Tensor) -> int:
    # On a device that is not waited for, places left over hold a row beyond the table's end.
    rows = len(torch.unique(rows_U[rows_U < len(table.weight)]))
    return rows * table.weight[:1].nbytes


def _dense_bytes(model: nn.Module) -> int:
    tables = {id(module.weight) for module in model.modules() if isinstance(module, RowTable)}
    return sum(weight.nbytes for weight in model.parameters() if id(weight) not in tables)


def _input_bytes(batch: Batch) -> int:
    """Return the bytes of ids, numbers and labels; domain and indicator follow from the ids."""
    bags: tuple[Any, ...] = tuple(part for bag in batch.bags for part in bag)
    return sum(part.nbytes for part in (batch.ids_BF, batch.numeric_BK, batch.label_B, *bags))
