"""Loops over table rows for which torch has no single operation, compiled by numba; for tensors on the CPU.

A row is some tens of numbers, so a chain of tensor operations spends its time in memory and in calls. Each loop here
passes once over the rows of a batch. Whatever works on another device stands beside its caller in torch operations,
and is tested against these. Compiled code is kept in numba's cache.

Shapes in names: n ids of a batch, U distinct rows, W numbers a row, R rows of the table, H steps tabulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TypeVar, cast

import numba
import numpy as np
import torch

PARALLEL_NUMBERS = 1 << 17
"""Numbers below which a second thread costs more than it gains."""

Array = np.ndarray
Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(loop: Loop) -> Loop:
    """Compile a function of numbers and numpy arrays when it is first called; methods may use it too."""
    return cast(Loop, numba.njit(cache=True, nogil=True, error_model="numpy")(loop))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def in_parts(loop: Callable[..., None], num_rows: int, row_size: int, *arguments: object) -> None:
    """Call `loop(start, stop, *arguments)` for all rows, in as many threads as torch may use where that pays."""
    threads = torch.get_num_threads() if num_rows * row_size >= PARALLEL_NUMBERS else 1
    if threads == 1 or num_rows < threads:
        loop(0, num_rows, *arguments)
        return
    cuts = np.linspace(0, num_rows, threads + 1).astype(np.int64).tolist()
    jobs = [_pool(threads).submit(loop, start, stop, *arguments) for start, stop in pairwise(cuts)]
    for job in jobs:
        job.result()


@compiled
def distinct(ids_n: Array, place_R: Array, rows_U: Array, inverse_n: Array) -> int:
    """Write the distinct ids, in order of first sight, and each id's place among them; return their number.

    `place_R` holds -1 everywhere, before and after. An id that is no row ends the search: -1 is returned.
    """
    count, is_known = 0, True
    for i in range(len(ids_n)):
        row = ids_n[i]
        if row < 0 or row >= len(place_R):
            is_known = False
            break
        slot = place_R[row]
        if slot < 0:
            slot = count
            place_R[row] = slot
            rows_U[slot] = row
            count += 1
        inverse_n[i] = slot
    for slot in range(count):
        place_R[rows_U[slot]] = -1
    return count if is_known else -1


@compiled
def add_rows(grad_nW: Array, inverse_n: Array, total_UW: Array) -> None:
    """Add each of the n rows to its place among the U."""
    for i in range(len(inverse_n)):
        total, grad = total_UW[inverse_n[i]], grad_nW[i]
        for j in range(len(total)):
            total[j] += grad[j]


@compiled
def caught_up(
    start: int,
    stop: int,
    packed_R3W: Array,
    last_R: Array,
    rows_U: Array,
    step: int,
    lr: float,
    eps: float,
    sums_2H: Array,
    powers_4H: Array,
    out_UW: Array,
) -> None:
    """Write the weights of rows as they stand after `step` steps (METHODS 12); the table stays as it is."""
    for u in range(start, stop):
        row = rows_U[u]
        weight, mean, square, out = packed_R3W[row, 0], packed_R3W[row, 1], packed_R3W[row, 2], out_UW[u]
        last = last_R[row]
        missed = step - last
        if last == 0 or missed <= 0:
            out[:] = weight
            continue
        rate, damping = _movement(last, missed, lr, eps, sums_2H, powers_4H)
        for j in range(len(out)):
            out[j] = weight[j] - rate * mean[j] / (np.sqrt(square[j]) + damping)


@compiled
def _movement(
    last: int, missed: int, lr: float, eps: float, sums_2H: Array, powers_4H: Array
) -> tuple[np.float32, np.float32]:
    """Return lr g1 and ε g2 / g1, so that the missed steps add up to -rate m / (√v + damping)."""
    horizon = sums_2H.shape[1] - 1
    start, end, power = min(last, horizon), min(last + missed, horizon), min(missed, horizon)
    g1 = sums_2H[0, start] - powers_4H[0, power] * sums_2H[0, end]
    g2 = sums_2H[1, start] - powers_4H[1, power] * sums_2H[1, end]
    return np.float32(lr * g1), np.float32(eps * g2 / max(g1, 1e-30))


@compiled
def flush(
    start: int,
    stop: int,
    packed_R3W: Array,
    last_R: Array,
    step: int,
    lr: float,
    eps: float,
    beta2: float,
    sums_2H: Array,
    powers_4H: Array,
) -> None:
    """Bring weights and moments of all rows up to date with `step` steps."""
    for row in range(start, stop):
        weight, mean, square = packed_R3W[row, 0], packed_R3W[row, 1], packed_R3W[row, 2]
        last = last_R[row]
        missed = step - last
        if last > 0 and missed > 0:
            rate, damping = _movement(last, missed, lr, eps, sums_2H, powers_4H)
            decay1, decay2 = _decays(missed, beta2, powers_4H)
            for j in range(len(weight)):
                weight[j] -= rate * mean[j] / (np.sqrt(square[j]) + damping)
                mean[j] *= decay1
                square[j] *= decay2
        last_R[row] = max(last, step)


@compiled
def _decays(missed: int, beta2: float, powers_4H: Array) -> tuple[np.float32, np.float32]:
    # β1^k is zero to float precision beyond the table, β2^k need not be.
    horizon = powers_4H.shape[1] - 1
    far = beta2**missed if missed > horizon else powers_4H[3, min(missed, horizon)]
    return np.float32(powers_4H[2, min(missed, horizon)]), np.float32(far)


@compiled
def adam(
    start: int,
    stop: int,
    packed_R3W: Array,
    last_R: Array,
    rows_U: Array,
    weight_UW: Array,
    grad_UW: Array,
    step: int,
    rate: float,
    eps: float,
    betas: tuple[float, float],
    powers_4H: Array,
    is_deferred: bool,
) -> None:
    """Make one Adam step on rows whose current weights are at hand: w -= rate m / (√v + ε)."""
    keep1, keep2 = np.float32(betas[0]), np.float32(betas[1])
    new1, new2 = np.float32(1.0 - betas[0]), np.float32(1.0 - betas[1])
    rate32, eps32 = np.float32(rate), np.float32(eps)
    for u in range(start, stop):
        row = rows_U[u]
        weight, mean, square = packed_R3W[row, 0], packed_R3W[row, 1], packed_R3W[row, 2]
        current, grad = weight_UW[u], grad_UW[u]
        decay1, decay2 = keep1, keep2
        if is_deferred:
            missed1, missed2 = _decays(max(step - 1 - last_R[row], 0), betas[1], powers_4H)
            decay1, decay2 = keep1 * missed1, keep2 * missed2
            last_R[row] = step
        for j in range(len(weight)):
            mean[j] = decay1 * mean[j] + new1 * grad[j]
            square[j] = decay2 * square[j] + new2 * grad[j] * grad[j]
            weight[j] = current[j] - rate32 * mean[j] / (np.sqrt(square[j]) + eps32)


@compiled
def own_adam(
    start: int,
    stop: int,
    packed_R3W: Array,
    count_R: Array,
    rows_U: Array,
    grad_UW: Array,
    lr: float,
    eps: float,
    betas: tuple[float, float],
) -> None:
    """Make one Adam step on rows that each count their own steps."""
    keep1, keep2 = np.float32(betas[0]), np.float32(betas[1])
    new1, new2 = np.float32(1.0 - betas[0]), np.float32(1.0 - betas[1])
    for u in range(start, stop):
        row = rows_U[u]
        weight, mean, square, grad = packed_R3W[row, 0], packed_R3W[row, 1], packed_R3W[row, 2], grad_UW[u]
        count_R[row] += 1
        root2 = math.sqrt(1.0 - betas[1] ** count_R[row])
        rate = np.float32(lr * root2 / (1.0 - betas[0] ** count_R[row]))
        own_eps = np.float32(eps * root2)
        for j in range(len(weight)):
            mean[j] = keep1 * mean[j] + new1 * grad[j]
            square[j] = keep2 * square[j] + new2 * grad[j] * grad[j]
            weight[j] -= rate * mean[j] / (np.sqrt(square[j]) + own_eps)


def grouped(ids_B: Array) -> tuple[Array, Array, Array, Array]:
    """Group rows by id, the groups in descending order of ⌊log2 rows⌋, then by id.

    Returns the ids present (G), rows of each (G), each row's place among the groups (B), and the rows group by group
    (B), each group's in their order; all int64.
    """
    if ids_B.max(initial=0) > 64 * len(ids_B) + (1 << 16):
        # Ids too sparse to be counted in an array.
        known, ids_B = np.unique(ids_B, return_inverse=True)
        present, *others = grouped(ids_B)
        return (known[present].astype(np.int64), *others)
    present, counts, index, order = _grouped(ids_B)
    return present, counts, index, order


@compiled
def _grouped(ids_B: Array) -> tuple[Array, Array, Array, Array]:
    rows_of = np.zeros(ids_B.max() + 1 if len(ids_B) else 1, dtype=np.int32)
    for one in ids_B:
        rows_of[one] += 1
    per_class = np.zeros(64, dtype=np.int64)
    for rows in rows_of:
        if rows:
            per_class[_size_class(rows)] += 1
    num_groups = per_class.sum()
    next_place = np.zeros(64, dtype=np.int64)
    for size in range(62, -1, -1):
        next_place[size] = next_place[size + 1] + per_class[size + 1]
    present, counts = np.empty(num_groups, dtype=np.int64), np.empty(num_groups, dtype=np.int64)
    place_of = np.empty(len(rows_of), dtype=np.int64)
    for one in range(len(rows_of)):
        rows = rows_of[one]
        if rows:
            place = next_place[_size_class(rows)]
            next_place[_size_class(rows)] += 1
            present[place], counts[place], place_of[one] = one, rows, place
    index, order = np.empty(len(ids_B), dtype=np.int64), np.empty(len(ids_B), dtype=np.int64)
    free = np.cumsum(counts) - counts
    for row in range(len(ids_B)):
        place = place_of[ids_B[row]]
        index[row] = place
        order[free[place]] = row
        free[place] += 1
    return present, counts, index, order


@compiled
def _size_class(rows: int) -> int:
    """Return ⌊log2 rows⌋."""
    size = 0
    while rows > 1:
        rows >>= 1
        size += 1
    return size
