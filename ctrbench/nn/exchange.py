"""Communication between the workers of one run: sums over the batch, and gradients, of tables as rows.

Each worker has the whole model and a part of every batch. The loss of its rows is their sum divided by the rows of all
workers, so summed gradients equal those of one worker. An all-reduce gives every worker the same bits, and everything
else is computed identically, so replicas stay equal bit for bit. torch's `DistributedDataParallel` reduces a fixed set
of parameters; table rows are new leaves in every step, so they are exchanged here, together with dense gradients.

Shapes in names: B rows, U distinct table rows, G groups of rows, W numbers per row, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import distributed, nn
from torch.autograd.function import FunctionCtx

from ctrbench.nn.routing import Routing

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that share one run, from the point of view of one of them."""

    rank: int
    size: int
    device: torch.device = CPU
    """Device of exchanged tensors: the CPU with gloo, this worker's GPU with NCCL."""
    group: distributed.ProcessGroup | None = None
    """Process group; None: all processes."""

    def cut(self, rows_B: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return this worker's rows of a batch, and their share of the batch.

        A worker without rows gets one with a share of zero, so that it takes part in all exchanges of the step.
        """
        own_B = rows_B[self.rank :: self.size]
        return (own_B, len(own_B) / len(rows_B)) if len(own_B) else (rows_B[:1], 0.0)

    def slice(self, num_rows: int) -> slice:
        """Return this worker's part of consecutive rows, for scoring."""
        start, stop = (num_rows * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of all workers' tensors, with the same bits for every worker; overwrites `values`."""
        distributed.all_reduce(values, group=self.group)
        return values

    def gather_integers(self, values_C: Sequence[int]) -> torch.Tensor:
        """Return the integers of all workers, which have the same number of them, as (workers, C) on the CPU."""
        own_C = torch.tensor(values_C, dtype=torch.int64, device=self.device)
        return torch.stack(self._gather_equal(own_C)).cpu()

    def gather(self, values_n: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
        """Return the values of each worker, given their lengths; shorter ones are padded for the exchange."""
        if not any(lengths):
            return [values_n] * self.size
        padded = values_n.new_zeros(max(lengths))
        padded[: len(values_n)] = values_n
        return [values[:length] for values, length in zip(self._gather_equal(padded), lengths, strict=True)]

    def _gather_equal(self, values: torch.Tensor) -> list[torch.Tensor]:
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        distributed.all_gather(gathered, values, group=self.group)
        return gathered

    def concatenate(self, values_n: torch.Tensor) -> torch.Tensor:
        """Return the values of all workers in the order of ranks, to every worker."""
        lengths = self.gather_integers([len(values_n)])[:, 0].tolist()
        return torch.cat(self.gather(values_n.to(self.device), lengths))

    def from_first(self, value: float) -> float:
        """Return the first worker's value, so that all workers decide alike."""
        first = torch.tensor([value if self.rank == 0 else 0.0], dtype=torch.float64, device=self.device)
        return float(self.sum(first))


@dataclass(frozen=True)
class Team:
    """The workers at one training step."""

    workers: Workers
    share: float
    """This worker's share of the batch's rows; 0 if it has none and computes on a substitute."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all workers, with gradients; the values of a substitute row count as zero."""
        values = values if self.share else values * 0.0
        total: torch.Tensor = _Sum.apply(values, self.workers)  # type: ignore[no-untyped-call]
        return total

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over all rows, given the mean over each worker's rows; without gradients."""
        return self.workers.sum(values.detach() * self.share)

    def groups(self, routing: Routing) -> Groups:
        """Return the groups that are present with any worker."""
        present_G, counts_G = routing.present_G, routing.counts_G * (self.share > 0)
        lengths = self.workers.gather_integers([len(present_G)])[:, 0]
        parts = self.workers.gather(torch.stack([present_G, counts_G], 1).flatten(), (2 * lengths).tolist())
        ids_n, counts_n = torch.cat(parts).view(-1, 2).unbind(1)
        present_U, index_n = torch.unique(ids_n, return_inverse=True)
        counts_U = torch.zeros_like(present_U).index_add(0, index_n, counts_n)
        return Groups(present_U, counts_U, self, torch.searchsorted(present_U, present_G))


class _Sum(torch.autograd.Function):
    """A sum on which the losses of all workers depend, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: torch.Tensor, workers: Workers) -> torch.Tensor:
        ctx.workers = workers  # type: ignore[attr-defined]
        return workers.sum(values.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        workers: Workers = ctx.workers  # type: ignore[attr-defined]
        return workers.sum(grads[0].clone(memory_format=torch.contiguous_format)), None


@dataclass(frozen=True)
class Groups:
    """Groups of rows that are present with any worker; with one worker, those of its routing."""

    present_G: torch.Tensor
    counts_G: torch.Tensor
    """Rows per group, of all workers."""
    team: Team | None = None
    own_index: torch.Tensor | None = None
    """Indices of this worker's groups in `present_G`."""

    @classmethod
    def of(cls, routing: Routing, team: Team | None) -> Groups:
        """Return the groups of a batch, given the routing of this worker's rows."""
        return cls(routing.present_G, routing.counts_G) if team is None else team.groups(routing)

    def sum(self, sums_GN: torch.Tensor) -> torch.Tensor:
        """Return the sums over all workers, given those of this worker's groups; with gradients."""
        if self.team is None or self.own_index is None:
            return sums_GN
        zeros_GN = sums_GN.new_zeros(len(self.present_G), sums_GN.shape[1])
        return self.team.sum(zeros_GN.index_copy(0, self.own_index, sums_GN))

    def own(self, values_GN: torch.Tensor) -> torch.Tensor:
        """Return the values of this worker's groups."""
        return values_GN if self.own_index is None else values_GN.index_select(0, self.own_index)


class Table(Protocol):
    """The properties of a table that the exchange of gradients uses."""

    num_rows: int
    width: int
    """Numbers per row."""

    def distinct(self, ids_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct ids, in an order that depends only on `ids_n`, and the index of each id among them."""


@dataclass(frozen=True)
class RowGrads:
    """The gradient of distinct rows of a table."""

    rows_U: torch.Tensor
    grad_UW: torch.Tensor


Tables = TypeVar("Tables", bound=Table)


def sum_gradients(
    parameters: Sequence[nn.Parameter], tables: Mapping[Tables, RowGrads | None], team: Team
) -> dict[Tables, RowGrads]:
    """Set the gradients of parameters to the sums over all workers, and return those of the table rows touched.

    After the ids of rows, one all-reduce sends everything: its size grows with the rows touched, not with the tables.
    Parameters and tables without a gradient on any worker are left out, as they are with one worker.
    """
    own = dict(tables) if team.share else dict.fromkeys(tables)
    grads = [parameter.grad if team.share else None for parameter in parameters]
    is_used, is_touched, lengths_WT = _gather_presence(grads, list(own.values()), team.workers)
    rows = _gather_rows(own, lengths_WT, team.workers)
    used = [(p, grad) for p, grad, present in zip(parameters, grads, is_used, strict=True) if present]
    touched = [table for table, present in zip(own, is_touched, strict=True) if present]
    dense = [torch.zeros_like(p) if grad is None else grad for p, grad in used]
    of_rows = [_expand_to_all_rows(table, own[table], *rows[table]) for table in touched]
    sums = _sum_together([*dense, *of_rows], team.workers)
    for (parameter, _), total in zip(used, sums, strict=False):
        parameter.grad = total
    sums_of_tables = zip(touched, sums[len(used) :], strict=True)
    return {table: RowGrads(rows[table][0], total) for table, total in sums_of_tables}


def _gather_presence(
    grads: Sequence[torch.Tensor | None], rows: Sequence[RowGrads | None], workers: Workers
) -> tuple[list[bool], list[bool], torch.Tensor]:
    """Return which parameters and tables have a gradient on any worker, and each worker's number of rows per table."""
    is_own = [grad is not None for grad in (*grads, *rows)]
    lengths = [0 if grad is None else len(grad.rows_U) for grad in rows]
    gathered_WC = workers.gather_integers([*is_own, *lengths])
    is_present = gathered_WC[:, : len(is_own)].any(0).tolist()
    return is_present[: len(grads)], is_present[len(grads) :], gathered_WC[:, len(is_own) :]


def _gather_rows(
    own: Mapping[Tables, RowGrads | None], lengths_WT: torch.Tensor, workers: Workers
) -> dict[Tables, tuple[torch.Tensor, torch.Tensor]]:
    """Return per table the distinct rows of all workers, and the indices of this worker's rows among them."""
    ids = [grad.rows_U for grad in own.values() if grad is not None]
    empty = torch.empty(0, dtype=torch.int64, device=workers.device)
    gathered = workers.gather(torch.cat([empty, *ids]), lengths_WT.sum(1).tolist())
    by_worker = [torch.split(ids, row) for ids, row in zip(gathered, lengths_WT.tolist(), strict=True)]
    rows = {}
    for table, parts in zip(own, zip(*by_worker, strict=True), strict=True):
        rows_U, index_n = table.distinct(torch.cat(parts))
        # A table on a GPU pads its distinct rows with a spare one.
        num_rows = int(index_n.max()) + 1 if len(index_n) else 0
        rows[table] = rows_U[:num_rows], torch.split(index_n, [len(part) for part in parts])[workers.rank]
    return rows


def _expand_to_all_rows(
    table: Table, own: RowGrads | None, rows_U: torch.Tensor, index_n: torch.Tensor
) -> torch.Tensor:
    """Return this worker's gradient of the rows of all workers, zero for rows that it did not touch."""
    grad_UW = torch.zeros(len(rows_U), table.width, device=rows_U.device)
    return grad_UW if own is None else grad_UW.index_copy_(0, index_n, own.grad_UW)


def _sum_together(parts: Sequence[torch.Tensor], workers: Workers) -> list[torch.Tensor]:
    """Return the sum over all workers of each tensor, by one all-reduce."""
    flat = workers.sum(torch.cat([part.flatten() for part in parts]))
    sizes = [part.numel() for part in parts]
    return [total.view_as(part) for total, part in zip(torch.split(flat, sizes), parts, strict=True)]
