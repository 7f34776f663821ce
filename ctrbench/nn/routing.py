"""Grouping rows by domain: the only code that does it.

A batch's rows are sorted by group once; every layer with per-domain parameters then multiplies padded buckets of
groups of similar size, so a row meets only its own domain's matrix and the cost does not grow with the number of
domains.

Shapes in names: B rows, N inputs, M outputs, G groups present in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class Bucket:
    """Groups of similar size, padded to the largest of them."""

    groups: torch.Tensor
    """Places of the groups in `Routing.present_G`."""
    rows: torch.Tensor
    """Row of the batch at each place (group, position); padding repeats some row."""
    real: torch.Tensor
    """Flat places that are no padding."""


class Routing:
    """Which rows of a batch belong to which group."""

    def __init__(self, group_B: torch.Tensor) -> None:
        # Ids are kept as int32; what indexes rows in place must be int64.
        self.present_G, self.index_B, self.counts_G = torch.unique(
            group_B.long(), return_inverse=True, return_counts=True
        )

    @property
    def num_groups(self) -> int:
        """Groups present in the batch."""
        return len(self.present_G)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """Buckets whose groups differ in size by less than a factor of two."""
        order_B = torch.argsort(self.index_B, stable=True)
        starts_G = torch.cumsum(self.counts_G, 0) - self.counts_G
        class_G = torch.floor(torch.log2(self.counts_G.double())).long()
        return tuple(
            self._bucket(torch.nonzero(class_G == size)[:, 0], starts_G, order_B)
            for size in torch.unique(class_G).tolist()
        )

    @cached_property
    def _back(self) -> torch.Tensor:
        taken = torch.cat([bucket.rows.flatten()[bucket.real] for bucket in self.buckets])
        return torch.argsort(taken)

    def _bucket(self, groups: torch.Tensor, starts_G: torch.Tensor, order_B: torch.Tensor) -> Bucket:
        counts = self.counts_G[groups]
        place = torch.arange(int(counts.max()), device=groups.device)
        real = place < counts[:, None]
        slots = torch.where(real, starts_G[groups][:, None] + place, 0)
        return Bucket(groups, order_B[slots], torch.nonzero(real.flatten())[:, 0])

    def linear(self, x_BN: torch.Tensor, weight_GNM: torch.Tensor) -> torch.Tensor:
        """Multiply each row by its group's matrix: (B, N) and (G, N, M) to (B, M)."""
        if self.num_groups == 1:
            return x_BN @ weight_GNM[0]
        # One gather of all groups: a gather a bucket would make a gradient of full size each.
        in_order = weight_GNM.index_select(0, torch.cat([bucket.groups for bucket in self.buckets]))
        weights = torch.split(in_order, [len(bucket.groups) for bucket in self.buckets])
        parts = [
            torch.bmm(x_BN[bucket.rows], weight).flatten(0, 1).index_select(0, bucket.real)
            for bucket, weight in zip(self.buckets, weights, strict=True)
        ]
        return torch.cat(parts).index_select(0, self._back)

    def sum(self, x_BN: torch.Tensor) -> torch.Tensor:
        """Sum the rows of each group: (B, N) to (G, N)."""
        total = x_BN.new_zeros(self.num_groups, x_BN.shape[1])
        return total.index_add(0, self.index_B, x_BN)
