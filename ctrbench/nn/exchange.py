"""What the workers of one run tell one another: sums over the batch, and gradients, those of tables as rows.

Each worker holds the whole model and its rows of every batch. The loss of its rows is their sum over the number of
rows of all, so summed gradients are those of one worker. An all-reduce gives every worker the same bits, and all else
is computed alike by all, so replicas stay equal bit for bit. torch's `DistributedDataParallel` averages parameters in
buckets that it knows beforehand; rows of tables are leaves that each step makes anew, so they are exchanged here, and
dense gradients go with them.

Shapes in names: B rows, U distinct table rows, G groups of rows, W numbers a row, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import distributed, nn
from torch.autograd.function import FunctionCtx

if TYPE_CHECKING:
    from ctrbench.nn.routing import Routing

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that make one run together, as one of them sees them."""

    rank: int
    size: int
    device: torch.device = CPU
    """Where tensors lie that are exchanged: the CPU with gloo, this worker's GPU with NCCL."""
    group: distributed.ProcessGroup | None = None
    """None: all processes."""

    def cut(self, rows_B: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return this worker's rows of a batch, and their share of it.

        A worker that has none is given one with a share of zero: it stands in, so that the worker takes part in all
        exchanges of the step, and counts nothing.
        """
        own_B = rows_B[self.rank :: self.size]
        return (own_B, len(own_B) / len(rows_B)) if len(own_B) else (rows_B[:1], 0.0)

    def slice(self, num_rows: int) -> slice:
        """Return this worker's part of rows in order, where each scores some."""
        cuts = [num_rows * rank // self.size for rank in (self.rank, self.rank + 1)]
        return slice(*cuts)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of all workers' tensors of one shape, the same bits everywhere; overwrites `values`."""
        distributed.all_reduce(values, group=self.group)
        return values

    def table(self, values_C: Sequence[int]) -> torch.Tensor:
        """Return whole numbers that each worker has as many of, (workers, C); on the CPU."""
        own_C = torch.tensor(values_C, dtype=torch.int64, device=self.device)
        return torch.stack(self._all(own_C)).cpu()

    def gather(self, values_n: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
        """Return each worker's numbers, of which the lengths are known; shorter ones are filled up on the way."""
        if not any(lengths):
            return [values_n] * self.size
        padded = values_n.new_zeros(max(lengths))
        padded[: len(values_n)] = values_n
        return [one[:length] for one, length in zip(self._all(padded), lengths, strict=True)]

    def _all(self, values: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(values) for _ in range(self.size)]
        distributed.all_gather(found, values, group=self.group)
        return found

    def join(self, values_n: torch.Tensor) -> torch.Tensor:
        """Return the numbers of all workers one after the other, to every worker."""
        lengths = self.table([len(values_n)])[:, 0].tolist()
        return torch.cat(self.gather(values_n.to(self.device), lengths))

    def agreed(self, value: float) -> float:
        """Return the value that the first worker has, so that what follows from it is the same everywhere."""
        first = torch.tensor([value if self.rank == 0 else 0.0], dtype=torch.float64, device=self.device)
        return float(self.sum(first))


@dataclass(frozen=True)
class Team:
    """The workers at one step."""

    workers: Workers
    share: float
    """Share of the batch's rows that are this worker's; 0 where a row stands in."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all workers, through which gradients pass; what stands in counts nothing."""
        values = values if self.share else values * 0.0
        found: torch.Tensor = _Total.apply(values, self.workers)  # type: ignore[no-untyped-call]
        return found

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over all rows of what are means over a worker's rows; without gradient."""
        return self.workers.sum(values.detach() * self.share)

    def groups(self, routing: Routing) -> Groups:
        """Return the groups that are present anywhere."""
        present_G, counts_G = routing.present_G, routing.counts_G * (self.share > 0)
        lengths = self.workers.table([len(present_G)])[:, 0]
        parts = self.workers.gather(torch.stack([present_G, counts_G], 1).flatten(), (2 * lengths).tolist())
        ids_n, counts_n = torch.cat(parts).view(-1, 2).unbind(1)
        present_U, place_n = torch.unique(ids_n, return_inverse=True)
        counts_U = torch.zeros_like(present_U).index_add(0, place_n, counts_n)
        place_G = torch.searchsorted(present_U, present_G)
        return Groups(present_U, counts_U, self, place_G)


class _Total(torch.autograd.Function):
    """A sum that all workers' losses depend on, so that its gradient is the sum of theirs."""

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
    """Groups of rows that are present with any worker; in one process, those of its routing."""

    present_G: torch.Tensor
    counts_G: torch.Tensor
    """Rows of each group, of all workers."""
    team: Team | None = None
    place: torch.Tensor | None = None
    """Where this worker's groups stand among all."""

    @classmethod
    def of(cls, routing: Routing, team: Team | None) -> Groups:
        """Return the groups of a batch, given those of this worker's rows."""
        return cls(routing.present_G, routing.counts_G) if team is None else team.groups(routing)

    def total(self, sums_GN: torch.Tensor) -> torch.Tensor:
        """Return the sums over all workers, from those of this worker's groups; gradients pass."""
        if self.team is None or self.place is None:
            return sums_GN
        spread_GN = sums_GN.new_zeros(len(self.present_G), sums_GN.shape[1])
        return self.team.total(spread_GN.index_copy(0, self.place, sums_GN))

    def own(self, values_GN: torch.Tensor) -> torch.Tensor:
        """Return what belongs to this worker's groups."""
        return values_GN if self.place is None else values_GN.index_select(0, self.place)


class Table(Protocol):
    """A table as the exchange of its rows' gradients needs it."""

    num_rows: int
    width: int
    """Numbers a row."""

    def distinct(self, ids_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct ids in an order that follows from `ids_n`, and the place of each id among them."""


@dataclass(frozen=True)
class RowGrads:
    """The gradient of some rows of a table, distinct ones."""

    rows_U: torch.Tensor
    grad_UW: torch.Tensor


Tables = TypeVar("Tables", bound=Table)


def sum_gradients(
    parameters: Sequence[nn.Parameter], tables: Mapping[Tables, RowGrads | None], team: Team
) -> dict[Tables, RowGrads]:
    """Give parameters the sums of all workers' gradients, and return those of the rows that any worker touched.

    Beside the rows' ids it is one all-reduce for all: what is sent grows with the rows touched, not with the tables.
    What no worker has a gradient of is left out, so it rests as it does in one process.
    """
    own = dict(tables) if team.share else dict.fromkeys(tables)
    grads = [one.grad if team.share else None for one in parameters]
    is_used, is_touched, lengths_WT = _known(grads, list(own.values()), team.workers)
    rows = _rows_of_all(own, lengths_WT, team.workers)
    used = [(one, grad) for one, grad, there in zip(parameters, grads, is_used, strict=True) if there]
    touched = [table for table, there in zip(own, is_touched, strict=True) if there]
    parts = [torch.zeros_like(one) if grad is None else grad for one, grad in used]
    sums = _summed([*parts, *(_spread(table, own[table], *rows[table]) for table in touched)], team.workers)
    for (parameter, _), total in zip(used, sums, strict=False):
        parameter.grad = total
    of_tables = zip(touched, sums[len(used) :], strict=True)
    return {table: RowGrads(rows[table][0], total) for table, total in of_tables}


def _known(
    grads: Sequence[torch.Tensor | None], rows: Sequence[RowGrads | None], workers: Workers
) -> tuple[list[bool], list[bool], torch.Tensor]:
    """Return which parameters and which tables any worker has a gradient of, and each one's rows of each table."""
    is_here = [one is not None for one in (*grads, *rows)]
    lengths = [0 if one is None else len(one.rows_U) for one in rows]
    known_WC = workers.table([*is_here, *lengths])
    is_there = known_WC[:, : len(is_here)].any(0).tolist()
    return is_there[: len(grads)], is_there[len(grads) :], known_WC[:, len(is_here) :]


def _rows_of_all(
    own: Mapping[Tables, RowGrads | None], lengths_WT: torch.Tensor, workers: Workers
) -> dict[Tables, tuple[torch.Tensor, torch.Tensor]]:
    """Return for each table the distinct rows of all workers, and where this worker's stand among them."""
    ids = [one.rows_U for one in own.values() if one is not None]
    nothing = torch.empty(0, dtype=torch.int64, device=workers.device)
    found = workers.gather(torch.cat([nothing, *ids]), lengths_WT.sum(1).tolist())
    by_worker = [torch.split(ids, row) for ids, row in zip(found, lengths_WT.tolist(), strict=True)]
    rows = {}
    for table, parts in zip(own, zip(*by_worker, strict=True), strict=True):
        rows_U, place_n = table.distinct(torch.cat(parts))
        # A table on another device fills its rows up with a spare one.
        num_rows = int(place_n.max()) + 1 if len(place_n) else 0
        rows[table] = rows_U[:num_rows], torch.split(place_n, [len(part) for part in parts])[workers.rank]
    return rows


def _spread(table: Table, own: RowGrads | None, rows_U: torch.Tensor, place_n: torch.Tensor) -> torch.Tensor:
    """Return this worker's gradient of the rows of all, zero where it has none."""
    grad_UW = torch.zeros(len(rows_U), table.width, device=rows_U.device)
    return grad_UW if own is None else grad_UW.index_copy_(0, place_n, own.grad_UW)


def _summed(parts: Sequence[torch.Tensor], workers: Workers) -> list[torch.Tensor]:
    flat = workers.sum(torch.cat([part.flatten() for part in parts]))
    sizes = [part.numel() for part in parts]
    return [one.view_as(part) for one, part in zip(torch.split(flat, sizes), parts, strict=True)]
