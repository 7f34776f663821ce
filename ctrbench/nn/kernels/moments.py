"""Running means and variances of each domain and of all rows, updated by the moments of a batch.

`norms.PartitionedNorm` defines the update (spec: star-2.3).

Shapes in names: N numbers per row, R domains of the table, G domains present in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ctrbench.compiled import compiled
from ctrbench.nn.kernels.loops import Array


@dataclass(frozen=True, kw_only=True)
class RunningMoments:
    """The tensors that an update changes in place."""

    mean_RN: torch.Tensor
    variance_RN: torch.Tensor
    seen_R2: torch.Tensor
    """Per domain the rows seen, and the degrees of freedom of its variance: rows less batches."""
    global_mean_N: torch.Tensor
    global_variance_N: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class BatchMoments:
    """The moments of a batch, of the domains present in it."""

    mean_GN: torch.Tensor
    squares_GN: torch.Tensor
    """Sums of squares around the means."""
    counts_G: torch.Tensor
    """Rows of each domain."""
    present_G: torch.Tensor
    """Ids of the domains."""


@torch.no_grad()
def update_moments(running: RunningMoments, batch: BatchMoments, *, momentum: float, smallest: int) -> None:
    """Move the running moments of all rows, then those of each domain present, in the form that suits the device.

    A domain with fewer than `smallest` rows in the batch has its momentum reduced to its share of the rows.
    """
    update = update_by_loops if batch.mean_GN.device.type == "cpu" else update_by_tensors
    update(running, batch, momentum=momentum, smallest=smallest)


def update_by_loops(running: RunningMoments, batch: BatchMoments, *, momentum: float, smallest: int) -> None:
    """Do `update_moments` on the CPU."""
    _update_loop(
        running.mean_RN.numpy(), running.variance_RN.numpy(), running.seen_R2.numpy(),
        running.global_mean_N.numpy(), running.global_variance_N.numpy(),
        batch.mean_GN.numpy(), batch.squares_GN.numpy(), batch.counts_G.numpy(), batch.present_G.numpy(),
        momentum, smallest,
    )  # fmt: skip


def update_by_tensors(
    running: RunningMoments, batch: BatchMoments, *, momentum: float, smallest: int
) -> None:
    """Do `update_moments` on any device."""
    present_G, mean, variance, seen = batch.present_G, running.mean_RN, running.variance_RN, running.seen_R2
    # Rows inform the mean, rows less one the variance, which is taken around each batch's own mean.
    counts_G2 = torch.stack([batch.counts_G, batch.counts_G - 1], dim=1)
    new_G2 = counts_G2.to(batch.mean_GN.dtype)
    _update_global(running, batch, new_G2[:, :1], momentum)
    seen[present_G] += counts_G2
    weight_G2 = _batch_weights(new_G2, seen[present_G], momentum, smallest)
    variance_GN = batch.squares_GN / new_G2[:, 1:].clamp_min(1.0)
    mean[present_G] = torch.lerp(mean[present_G], batch.mean_GN, weight_G2[:, :1])
    variance[present_G] = torch.lerp(variance[present_G], variance_GN, weight_G2[:, 1:])


def _batch_weights(
    new_G2: torch.Tensor, seen_G2: torch.Tensor, momentum: float, smallest: int
) -> torch.Tensor:
    """Weigh the batch's moments against the running ones; a single row has no variance."""
    rows_G1 = new_G2[:, :1]
    floor_G1 = torch.where(rows_G1 < smallest, rows_G1 / rows_G1.sum(), 1.0)
    return (new_G2 / seen_G2.clamp_min(1)).maximum(momentum * floor_G1) * (new_G2 > 0)


def _update_global(
    running: RunningMoments, batch: BatchMoments, rows_G1: torch.Tensor, momentum: float
) -> None:
    rows = rows_G1.sum()
    mean = (rows_G1 * batch.mean_GN).sum(0) / rows
    variance = (batch.squares_GN + rows_G1 * (batch.mean_GN - mean).square()).sum(0) / rows
    weight = (rows / (running.seen_R2[:, 0].sum() + rows)).clamp_min(momentum)
    between = weight * (1.0 - weight) * (mean - running.global_mean_N).square()
    running.global_mean_N.lerp_(mean, weight)
    running.global_variance_N.lerp_(variance, weight).add_(between)


@compiled
def _update_loop(
    mean_RN: Array,
    variance_RN: Array,
    seen_R2: Array,
    global_mean_N: Array,
    global_variance_N: Array,
    batch_mean_GN: Array,
    squares_GN: Array,
    rows_G: Array,
    present_G: Array,
    momentum: float,
    smallest: int,
) -> None:
    rows = rows_G.sum()
    weight = max(rows / (seen_R2[:, 0].sum() + rows), momentum)
    for j in range(len(global_mean_N)):
        mean, squares = 0.0, 0.0
        for g in range(len(rows_G)):
            mean += rows_G[g] * batch_mean_GN[g, j] / rows
        for g in range(len(rows_G)):
            squares += squares_GN[g, j] + rows_G[g] * (batch_mean_GN[g, j] - mean) ** 2
        apart = mean - global_mean_N[j]
        global_mean_N[j] += weight * apart
        global_variance_N[j] += weight * (squares / rows - global_variance_N[j])
        global_variance_N[j] += weight * (1.0 - weight) * apart * apart
    for g in range(len(rows_G)):
        row, new = present_G[g], rows_G[g]
        seen_R2[row, 0] += new
        seen_R2[row, 1] += new - 1
        least = momentum * (new / rows if new < smallest else 1.0)
        of_mean = max(new / seen_R2[row, 0], least)
        of_variance = max((new - 1) / max(seen_R2[row, 1], 1), least) if new > 1 else 0.0
        scale = 1.0 / max(new - 1, 1)
        for j in range(len(global_mean_N)):
            mean_RN[row, j] += of_mean * (batch_mean_GN[g, j] - mean_RN[row, j])
            variance_RN[row, j] += of_variance * (squares_GN[g, j] * scale - variance_RN[row, j])
