"""Tables whose rows are read by id, and the encoder that turns a batch's ids into the input vector z.

All fields share one table, so a batch costs one gather. In training a table is read through a `Reader` (the
optimiser's tape), which hands out just the rows of the batch and later updates just those; without one the weights
are read directly.

Shapes in names: B rows, F fields, E embedding size, U distinct table rows, n ids, N inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import nn
from torch.autograd.function import FunctionCtx

from ctrbench.nn import kernels
from ctrbench.nn.exchange import Team
from ctrbench.nn.plan import Build, FieldShape, Pooling, Schema
from ctrbench.nn.pooling import Behaviours, Lists, RowLoss, make_pooling

EMBEDDING_STD = 0.05


class Inputs(Protocol):
    """One batch as a model reads it; `data.batches.Batch` is one."""

    @property
    def ids_BF(self) -> torch.Tensor:
        """Ids of the one-id fields."""

    @property
    def bags(self) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
        """For each pooled field its values, all rows on end, and, on the CPU, the offsets (B + 1) of rows in them."""

    @property
    def numeric_BK(self) -> torch.Tensor:
        """Plain numbers, standardised."""

    @property
    def domain_B(self) -> torch.Tensor:
        """Composite domain ids, 0 = unseen; on the CPU."""

    @property
    def indicator_B(self) -> torch.Tensor:
        """Ids of the indicator p, 0 = unseen; on the CPU."""


class RowTable(nn.Module):
    """Parameters of which a batch needs only some rows.

    `rule` says what an optimiser does with rows that a batch does not touch: `embedding` rows follow the run's choice
    of Adam, `domain` rows never move and count their own steps. With `own_steps`, the steps of the whole table are
    those that read it, as if the model's other parts were not there.
    """

    def __init__(
        self, start: torch.Tensor, rule: Literal["embedding", "domain"], *, own_steps: bool = False
    ) -> None:
        super().__init__()
        self.rule, self.own_steps = rule, own_steps
        self.weight = nn.Parameter(start)


class Reader(Protocol):
    """Hands out rows of tables, so that their gradients can be found again."""

    @property
    def team(self) -> Team | None:
        """The workers that have the other rows of the step's batch, if there are any."""

    def read(self, table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
        """Return the rows (distinct ids), current as of this step, with their own gradient."""

    def lookup(self, table: RowTable, ids_n: torch.Tensor) -> torch.Tensor:
        """Return the row of each id; ids may repeat."""


def read_rows(reader: Reader | None, table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
    """Read distinct rows of a table, through the reader where there is one."""
    return table.weight.index_select(0, rows_U) if reader is None else reader.read(table, rows_U)


class _RowsAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows_UE: torch.Tensor, index_n: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index_n)
        ctx.num_rows = len(rows_UE)  # type: ignore[attr-defined]
        return rows_UE.index_select(0, index_n)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index_n,), (grad_nE,) = ctx.saved_tensors, grads  # type: ignore[attr-defined]
        total_UE = grad_nE.new_zeros(ctx.num_rows, *grad_nE.shape[1:])  # type: ignore[attr-defined]
        is_for_loops = grad_nE.device.type == "cpu" and grad_nE.dim() == 2 and grad_nE.dtype != torch.bfloat16
        if torch.is_grad_enabled() or not is_for_loops:
            return total_UE.index_add(0, index_n, grad_nE), None
        kernels.add_rows(grad_nE.contiguous().numpy(), index_n.numpy(), total_UE.numpy())
        return total_UE, None


def rows_at(rows_UE: torch.Tensor, index_n: torch.Tensor) -> torch.Tensor:
    """Return rows by place, (U, …) to (n, …); what torch's own lookup does, several times as fast backwards."""
    found: torch.Tensor = _RowsAt.apply(rows_UE, index_n)  # type: ignore[no-untyped-call]
    return found


class FieldEmbedding(nn.Module):
    """Embeds all fields of a batch and concatenates them to z; see `Schema.slices` for the layout.

    With `first_order`, a table row holds one number more, the weight of its id. A sequence with a target reads the
    target's rows; `pooling` says what is made of it, of its ids' weights the mean.
    """

    offsets: torch.Tensor
    columns: torch.Tensor | None
    """Columns of the one-id fields that the model sees; None for all, as with the others."""
    numbers: torch.Tensor | None

    def __init__(
        self, schema: Schema, build: Build, *, first_order: bool = False, pooling: Pooling | None = None
    ) -> None:
        super().__init__()
        self.schema, self.first_order = schema, first_order
        everything = replace(schema, hidden=())
        self.bags = _places(everything.bag_fields, schema)
        for name in ("single", "numeric"):
            places = _places(getattr(everything, f"{name}_fields"), schema)
            index = None if places is None else torch.tensor(places, dtype=torch.int64)
            self.register_buffer("columns" if name == "single" else "numbers", index, persistent=False)
        sizes = [field.size for field in schema.table_fields]
        starts = {field.name: sum(sizes[:place]) for place, field in enumerate(schema.table_fields)}
        single = [starts[field.name] for field in schema.single_fields]
        self.register_buffer("offsets", torch.tensor(single, dtype=torch.int32), persistent=False)
        starts |= {name: single[place] for name, place in schema.targets.items()}
        self.bag_starts = [starts[field.name] for field in schema.bag_fields]
        self.make_poolings(pooling or Pooling(), build)
        start = self._start(schema, build)
        if first_order:
            start = torch.cat([start, start.new_zeros(len(start), 1)], dim=1)
        self.make_table(start)

    def make_table(self, start: torch.Tensor) -> None:
        """Keep the rows of all fields; where they start is given."""
        self.table = RowTable(start, "embedding")

    def make_poolings(self, pooling: Pooling, build: Build) -> None:
        """Keep what pools each sequence that has a target."""
        self.poolings = sequence_poolings(pooling, build)

    @staticmethod
    def _start(schema: Schema, build: Build) -> torch.Tensor:
        # Without rare values sent to it, the row of unseen values is never trained and stays at zero.
        parts = []
        for field in schema.table_fields:
            part = torch.empty(field.size, schema.embedding_size)
            part.normal_(std=EMBEDDING_STD, generator=build.generator(f"embedding.{field.name}"))
            part[0] = 0.0
            parts.append(part)
        return torch.cat(parts) if parts else torch.empty(0, schema.embedding_size)

    def forward(
        self,
        inputs: Inputs,
        reader: Reader | None = None,
        losses: list[RowLoss] | None = None,
        behaviours: dict[str, Behaviours] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return z of shape (B, N), and with `first_order` the weights (B, F) of the fields' ids, else None.

        What the pooling of sequences adds to the loss is appended to `losses`; the elements of those that have a target
        are put into `behaviours`, where there is one.
        """
        ids_BF = _seen(inputs.ids_BF, self.columns) + self.offsets
        bags = inputs.bags if self.bags is None else [inputs.bags[place] for place in self.bags]
        numbers_BK = _seen(inputs.numeric_BK, self.numbers)
        values = [bag[0] + start for bag, start in zip(bags, self.bag_starts, strict=True)]
        flat = torch.cat([ids_BF.flatten(), *values]) if values else ids_BF.flatten()
        found_nE = self.find(flat, inputs, reader)
        single, *lists = torch.split(found_nE, [ids_BF.numel(), *(len(value) for value in values)])
        single_BFE = single.view(*ids_BF.shape, single.shape[1])
        if behaviours is not None:
            behaviours |= self._behaviours(lists, [offsets for _, offsets in bags], single_BFE)
        pooled = [
            self._pooled(field, rows, offsets, single_BFE, inputs, [] if losses is None else losses)
            for field, rows, (_, offsets) in zip(self.schema.bag_fields, lists, bags, strict=True)
        ]
        weights_BF = None
        if self.first_order:
            weights_BF = torch.cat(
                [single[:, -1].view(ids_BF.shape), *(one[:, -1:] for one in pooled)], dim=1
            )
            single, pooled = single[:, :-1], [one[:, :-1] for one in pooled]
        parts = [single.reshape(len(ids_BF), ids_BF.shape[1] * self.schema.embedding_size), *pooled]
        if numbers_BK.shape[1]:
            parts.append(numbers_BK)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], weights_BF

    def _behaviours(
        self, lists: Sequence[torch.Tensor], offsets: Sequence[torch.Tensor], single_BFE: torch.Tensor
    ) -> dict[str, Behaviours]:
        """Return the elements of the sequences that have a target, by field."""
        places = {field.name: place for place, field in enumerate(self.schema.bag_fields)}
        size = self.schema.embedding_size
        return {
            name: Behaviours(
                rows_nE=lists[places[name]][:, :size],
                lists=Lists(offsets[places[name]], single_BFE.device),
                target_BE=single_BFE[:, target, :size],
            )
            for name, target in self.schema.targets.items()
        }

    def _pooled(
        self,
        field: FieldShape,
        rows: torch.Tensor,
        offsets: torch.Tensor,
        single_BFE: torch.Tensor,
        inputs: Inputs,
        losses: list[RowLoss],
    ) -> torch.Tensor:
        """Pool a field's lists; a weight behind the embedding is averaged, whatever becomes of that."""
        size = self.schema.embedding_size
        place = self.schema.targets.get(field.name)
        if place is None or not len(self.poolings):
            return mean_rows(rows, offsets)
        one_BE, loss = self.attend(
            list(self.schema.targets).index(field.name),
            rows[:, :size], offsets, single_BFE[:, place, :size], inputs,
        )  # fmt: skip
        if loss is not None:
            losses.append(loss)
        return torch.cat([one_BE, mean_rows(rows[:, size:], offsets)], dim=1) if self.first_order else one_BE

    def attend(
        self,
        number: int,
        rows_nE: torch.Tensor,
        offsets: torch.Tensor,
        target_BE: torch.Tensor,
        inputs: Inputs,
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Pool the lists of the sequence of that number, given the rows' targets."""
        pooled: tuple[torch.Tensor, RowLoss | None] = self.poolings[number](rows_nE, offsets, target_BE)
        return pooled

    def find(self, ids_n: torch.Tensor, inputs: Inputs, reader: Reader | None) -> torch.Tensor:
        """Return the row of each id: those of one-id fields row by row, then bag by bag the values of all rows."""
        return find_rows(reader, self.table, ids_n)


def sequence_poolings(pooling: Pooling, build: Build) -> nn.ModuleList:
    """Return what pools each sequence that has a target, in the order of `Schema.targets`; none for the mean."""
    made = (make_pooling(pooling, name, build) for name in build.schema.targets)
    return nn.ModuleList(module for module in made if module is not None)


def find_rows(reader: Reader | None, table: RowTable, ids_n: torch.Tensor) -> torch.Tensor:
    """Return the row of each id, through the reader where there is one; ids may repeat."""
    return table.weight.index_select(0, ids_n) if reader is None else reader.lookup(table, ids_n)


def _seen(values_BF: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    return values_BF if columns is None else values_BF.index_select(1, columns)


def _places(fields: Sequence[FieldShape], schema: Schema) -> list[int] | None:
    """Return the places of the fields that the model sees; None for all."""
    places = [place for place, field in enumerate(fields) if field.name not in schema.hidden]
    return None if len(places) == len(fields) else places


def mean_rows(rows_nE: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return the mean of each list's rows, (n, E) and offsets (B + 1) to (B, E); zero for an empty list.

    Offsets are on the CPU, so no step waits for the device to learn a size.
    """
    length_B = offsets.diff()
    list_n = torch.repeat_interleave(length_B, output_size=len(rows_nE)).to(rows_nE.device, non_blocking=True)
    total_BE = rows_nE.new_zeros(len(length_B), rows_nE.shape[1]).index_add(0, list_n, rows_nE)
    share_B1 = length_B.clamp_min(1)[:, None].to(rows_nE.dtype).reciprocal()
    return total_BE * share_B1.to(rows_nE.device, non_blocking=True)
