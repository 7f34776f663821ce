"""Rows by id: the distinct ids of a batch, sums of rows that share an index, and the grouping of rows.

torch has no single operation for these on the CPU, and a row is a few dozen numbers, so a chain of operations spends
its time on memory and calls. Each loop passes once over the batch; the tensor forms, for any device, have shapes that
do not depend on values, so no step waits for the device.

Shapes in names: n ids of a batch, U distinct rows, E numbers per row, R rows of the table, B rows of a batch, G groups.
"""

from __future__ import annotations

import numpy as np
import torch

from ctrbench.compiled import compiled
from ctrbench.nn.kernels.loops import Array


def distinct_by_loops(ids_n: torch.Tensor, slot_R: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct ids in order of first occurrence, and the index of each id among them; on the CPU.

    `slot_R` is scratch memory that holds -1 everywhere, before and after. An id outside the table is an `IndexError`.
    """
    rows, inverse = np.empty(len(ids_n), dtype=np.int64), np.empty(len(ids_n), dtype=np.int64)
    count = _distinct_loop(ids_n.numpy(), slot_R, rows, inverse)
    if count < 0:
        raise IndexError(f"an id exceeds the {len(slot_R)} rows of its table")
    return torch.from_numpy(rows[:count]), torch.from_numpy(inverse)


def distinct_by_tensors(ids_n: torch.Tensor, spare_row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct ids in ascending order, and the index of each id among them; on any device.

    There are always n rows: those after the last distinct id hold `spare_row`.
    """
    sorted_n, order_n = torch.sort(ids_n.long())
    is_new_n = torch.ones_like(sorted_n)
    is_new_n[1:] = sorted_n[1:] != sorted_n[:-1]
    index_n = torch.cumsum(is_new_n, 0) - 1
    rows_n = torch.full_like(sorted_n, spare_row).scatter_(0, index_n, sorted_n)
    return rows_n, torch.empty_like(index_n).scatter_(0, order_n, index_n)


def sum_by_index(rows_nE: torch.Tensor, index_n: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return the sums of the rows that share an index, (n, …) to (U, …), in the form that suits the device.

    The loops take matrices of float32 or float64 whose sums need no gradient.
    """
    is_matrix = rows_nE.dim() == 2 and rows_nE.dtype != torch.bfloat16
    if rows_nE.device.type == "cpu" and is_matrix and not torch.is_grad_enabled():
        return sum_by_loops(rows_nE, index_n, num_rows)
    return sum_by_tensors(rows_nE, index_n, num_rows)


def sum_by_loops(rows_nE: torch.Tensor, index_n: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Do `sum_by_index` on the CPU."""
    total_UE = rows_nE.new_zeros(num_rows, rows_nE.shape[1])
    _sum_loop(rows_nE.contiguous().numpy(), index_n.numpy(), total_UE.numpy())
    return total_UE


def sum_by_tensors(rows_nE: torch.Tensor, index_n: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Do `sum_by_index` on any device, with gradients."""
    return rows_nE.new_zeros(num_rows, *rows_nE.shape[1:]).index_add(0, index_n, rows_nE)


def group_rows(ids_B: Array) -> tuple[Array, Array, Array, Array]:
    """Group rows by id, the groups in descending order of ⌊log2 rows⌋, then in ascending order of id.

    Returns the ids present (G), rows per group (G), the index of each row's group (B), and the rows group by group
    (B), within a group in ascending order; all int64.
    """
    if ids_B.max(initial=0) > 64 * len(ids_B) + (1 << 16):
        # Ids too sparse to be counted in an array.
        distinct, ids_B = np.unique(ids_B, return_inverse=True)
        present, *others = group_rows(ids_B)
        return (distinct[present].astype(np.int64), *others)
    present, counts, index, order = _group_loop(ids_B)
    return present, counts, index, order


@compiled
def _distinct_loop(ids_n: Array, slot_R: Array, rows_U: Array, inverse_n: Array) -> int:
    """Write the distinct ids and each id's index among them; return their number, -1 where an id is no row."""
    count, is_valid = 0, True
    for i in range(len(ids_n)):
        row = ids_n[i]
        if row < 0 or row >= len(slot_R):
            is_valid = False
            break
        slot = slot_R[row]
        if slot < 0:
            slot = count
            slot_R[row] = slot
            rows_U[slot] = row
            count += 1
        inverse_n[i] = slot
    for slot in range(count):
        slot_R[rows_U[slot]] = -1
    return count if is_valid else -1


@compiled
def _sum_loop(rows_nE: Array, index_n: Array, total_UE: Array) -> None:
    """Add each row to the total of its index."""
    for i in range(len(index_n)):
        total, row = total_UE[index_n[i]], rows_nE[i]
        for j in range(len(total)):
            total[j] += row[j]


@compiled
def _group_loop(ids_B: Array) -> tuple[Array, Array, Array, Array]:
    rows_of = np.zeros(ids_B.max() + 1 if len(ids_B) else 1, dtype=np.int32)
    for group in ids_B:
        rows_of[group] += 1
    per_class = np.zeros(64, dtype=np.int64)
    for rows in rows_of:
        if rows:
            per_class[_size_class(rows)] += 1
    num_groups = per_class.sum()
    next_slot = np.zeros(64, dtype=np.int64)
    for size in range(62, -1, -1):
        next_slot[size] = next_slot[size + 1] + per_class[size + 1]
    present, counts = np.empty(num_groups, dtype=np.int64), np.empty(num_groups, dtype=np.int64)
    slot_of = np.empty(len(rows_of), dtype=np.int64)
    for group in range(len(rows_of)):
        rows = rows_of[group]
        if rows:
            slot = next_slot[_size_class(rows)]
            next_slot[_size_class(rows)] += 1
            present[slot], counts[slot], slot_of[group] = group, rows, slot
    index, order = np.empty(len(ids_B), dtype=np.int64), np.empty(len(ids_B), dtype=np.int64)
    free = np.cumsum(counts) - counts
    for row in range(len(ids_B)):
        slot = slot_of[ids_B[row]]
        index[row] = slot
        order[free[slot]] = row
        free[slot] += 1
    return present, counts, index, order


@compiled
def _size_class(rows: int) -> int:
    """Return ⌊log2 rows⌋."""
    size = 0
    while rows > 1:
        rows >>= 1
        size += 1
    return size
