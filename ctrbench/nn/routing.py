"""Grouping of a batch's rows by domain, and computation by group.

A batch's rows are grouped once; every layer with per-domain parameters then multiplies padded buckets of groups of
similar size. So a row is multiplied only by the matrix of its own domain, and the cost does not grow with the number of
domains. Rows are grouped on the CPU, where the order of a batch is decided, so no step waits for a device.

Shapes in names: B rows, N inputs, M outputs, G groups present in the batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch.autograd.function import FunctionCtx

from ctrbench.nn.gather import rows_at, to_device
from ctrbench.nn.kernels.rows import group_rows


@dataclass(frozen=True)
class Bucket:
    """Consecutive groups of similar size, padded to the largest of them, as slots (group, position) in one sequence."""

    groups: slice
    """Slice of `Routing.present_G`."""
    rows: torch.Tensor
    """Row of the batch in each slot; padding repeats a row of the group."""
    real: torch.Tensor | None
    """Slots that are not padding; None if there is no padding."""
    padding: torch.Tensor | None
    """Slots that are padding; None if there is none."""
    own: torch.Tensor
    """Rows of the batch in the slots that are not padding."""


class Routing:
    """Assignment of a batch's rows to groups; larger groups come first.

    Stages use `Context.routing` and `Context.domain_routing`, which group by indicator and by domain:

        routing.linear(x_BN, weight_GNM)   # each row times its group's matrix, (B, M)
        routing.sum(x_BN)                  # sums per group, (G, N)
        routing.broadcast(values_GN)       # the group's values for each row, (B, N)
    """

    def __init__(self, group_B: torch.Tensor, device: torch.device | None = None) -> None:
        """Group rows by id, best given on the CPU; tensors of the result are on `device` (default: that of the ids)."""
        self.device = device or group_B.device
        self._present, self._counts, self._index, self._order = group_rows(group_B.cpu().numpy())

    def _to_tensor(self, values: np.ndarray) -> torch.Tensor:
        return to_device(torch.from_numpy(values), self.device)

    @property
    def num_groups(self) -> int:
        """Number of groups present in the batch."""
        return len(self._present)

    @property
    def smallest(self) -> int:
        """Number of rows of the smallest group."""
        return int(self._counts.min())

    @cached_property
    def present_G(self) -> torch.Tensor:
        """Ids of the groups, int64."""
        return self._to_tensor(self._present)

    @cached_property
    def counts_G(self) -> torch.Tensor:
        """Number of rows of each group."""
        return self._to_tensor(self._counts)

    @cached_property
    def index_B(self) -> torch.Tensor:
        """Index of each row's group in `present_G`."""
        return self._to_tensor(self._index)

    @cached_property
    def members(self) -> tuple[tuple[int, torch.Tensor], ...]:
        """Id and row numbers of each group, in the order of `present_G`; always on the CPU."""
        rows = torch.split(torch.from_numpy(self._order), self._counts.tolist())
        return tuple(zip(self._present.tolist(), rows, strict=True))

    @cached_property
    def first_G(self) -> torch.Tensor:
        """The first row of each group."""
        return self._to_tensor(self._order[np.cumsum(self._counts) - self._counts])

    @cached_property
    def share_G(self) -> torch.Tensor:
        """Share of the batch's rows in each group, float32."""
        return self._to_tensor((self._counts / self._counts.sum()).astype(np.float32))

    @property
    def index(self) -> np.ndarray:
        """`index_B` as an array, for compiled loops."""
        return self._index

    def has(self, group: int) -> bool:
        """Whether the group is present."""
        return bool((self._present == group).any())

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """Buckets whose groups differ in size by less than a factor of two."""
        size_class = np.frexp(self._counts.astype(np.float64))[1]
        cuts = [0, *(np.flatnonzero(np.diff(size_class)) + 1).tolist(), len(size_class)]
        starts = np.cumsum(self._counts) - self._counts
        return tuple(self._make_bucket(slice(a, b), starts[a:b]) for a, b in pairwise(cuts))

    def _make_bucket(self, groups: slice, starts: np.ndarray) -> Bucket:
        counts = self._counts[groups]
        position = np.arange(counts.max())
        is_real = position < counts[:, None]
        rows = self._order[starts[:, None] + np.where(is_real, position, 0)].ravel()
        own = self._to_tensor(self._order[starts[0] : starts[0] + counts.sum()])
        if is_real.all():
            return Bucket(groups, own, None, None, own)
        real, padding = np.flatnonzero(is_real), np.flatnonzero(~is_real)
        return Bucket(groups, self._to_tensor(rows), self._to_tensor(real), self._to_tensor(padding), own)

    def linear(self, x_BN: torch.Tensor, weight_GNM: torch.Tensor) -> torch.Tensor:
        """Multiply each row by its group's matrix: (B, N) and (G, N, M) to (B, M)."""
        # In the weights' precision: converting a matrix for the few rows of its group costs more than it saves.
        with full_precision(x_BN.device):
            x_BN = x_BN.to(weight_GNM.dtype)
            if self.num_groups == 1:
                return x_BN @ weight_GNM.squeeze(0)
            product: torch.Tensor = _GroupedLinear.apply(x_BN, weight_GNM, self)  # type: ignore[no-untyped-call]
        return product

    def sum(self, x_BN: torch.Tensor) -> torch.Tensor:
        """Sum the rows of each group: (B, N) to (G, N)."""
        if self.num_groups == 1:
            return x_BN.sum(0, keepdim=True)
        return x_BN.new_zeros(self.num_groups, x_BN.shape[1]).index_add(0, self.index_B, x_BN)

    def broadcast(self, values_GN: torch.Tensor) -> torch.Tensor:
        """Return the values of each row's group: (G, N) to (B, N), or to (1, N) if there is one group."""
        return values_GN if self.num_groups == 1 else rows_at(values_GN, self.index_B)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which products are computed in the precision of their factors, without autocast."""
    if device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class _GroupedLinear(torch.autograd.Function):
    """The product by bucket; the gradient of the matrices is written once, in place."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x_BN: torch.Tensor, weight_GNM: torch.Tensor, routing: Routing
    ) -> torch.Tensor:
        ctx.save_for_backward(x_BN, weight_GNM)
        ctx.routing = routing  # type: ignore[attr-defined]
        product = x_BN.new_empty(len(x_BN), weight_GNM.shape[2])
        for bucket in routing.buckets:
            _write_rows(product, bucket, torch.bmm(_pad(x_BN, bucket), weight_GNM[bucket.groups]))
        return product

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (grad_BM,), (x_BN, weight_GNM) = grads, ctx.saved_tensors  # type: ignore[attr-defined]
        routing: Routing = ctx.routing  # type: ignore[attr-defined]
        if torch.is_grad_enabled():
            raise NotImplementedError("a grouped product has no second derivative")
        grad_x, grad_weight = torch.empty_like(x_BN), torch.empty_like(weight_GNM)
        for bucket in routing.buckets:
            grad = _pad(grad_BM, bucket)
            if bucket.padding is not None:
                grad.flatten(0, 1).index_fill_(0, bucket.padding, 0.0)
            torch.bmm(_pad(x_BN, bucket).mT, grad, out=grad_weight[bucket.groups])
            _write_rows(grad_x, bucket, torch.bmm(grad, weight_GNM[bucket.groups].mT))
        return grad_x, grad_weight, None


def _pad(x_BN: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """Return the rows of a bucket as (groups, positions, N)."""
    num_groups = bucket.groups.stop - bucket.groups.start
    return x_BN.index_select(0, bucket.rows).view(num_groups, -1, x_BN.shape[1])


def _write_rows(to_BM: torch.Tensor, bucket: Bucket, values: torch.Tensor) -> None:
    """Write the values of a bucket's slots to the rows of the batch, padding left out."""
    flat = values.flatten(0, 1)
    to_BM.index_copy_(0, bucket.own, flat if bucket.real is None else flat.index_select(0, bucket.real))
