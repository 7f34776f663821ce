"""Gathering rows by index, averaging the rows of lists, and moving indices to a device without waiting for it.

Shapes in names: B rows, U distinct rows, n indices, E numbers per row.
"""

from __future__ import annotations

import torch
from torch.autograd.function import FunctionCtx

from ctrbench.nn.kernels.rows import sum_by_index


class _RowsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows_UE: torch.Tensor, index_n: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index_n)
        ctx.num_rows = len(rows_UE)  # type: ignore[attr-defined]
        return rows_UE.index_select(0, index_n)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index_n,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return sum_by_index(grads[0], index_n, ctx.num_rows), None  # type: ignore[attr-defined]


def rows_at(rows_UE: torch.Tensor, index_n: torch.Tensor) -> torch.Tensor:
    """Return rows by index, (U, …) to (n, …).

    `Tensor.index_select` computes the same; its gradient takes several times as long on the CPU.
    """
    gathered: torch.Tensor = _RowsAt.apply(rows_UE, index_n)  # type: ignore[no-untyped-call]
    return gathered


def mean_rows(rows_nE: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return the mean of each list's rows, (n, E) and offsets (B + 1) to (B, E); zero for an empty list.

    Offsets are on the CPU, so sizes are available without waiting for the device.
    """
    length_B = offsets.diff()
    list_n = torch.repeat_interleave(length_B, output_size=len(rows_nE)).to(rows_nE.device, non_blocking=True)
    total_BE = rows_nE.new_zeros(len(length_B), rows_nE.shape[1]).index_add(0, list_n, rows_nE)
    share_B1 = length_B.clamp_min(1)[:, None].to(rows_nE.dtype).reciprocal()
    return total_BE * share_B1.to(rows_nE.device, non_blocking=True)


def to_device(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy row numbers from the CPU to a device, without waiting for it."""
    return rows if device.type == "cpu" else rows.pin_memory().to(device, non_blocking=True)
