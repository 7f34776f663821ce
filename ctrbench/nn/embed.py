"""Tables whose rows are read by id, and the encoder that turns a batch's ids into the input vector z.

All fields share one table, so a batch costs one gather. In training a table is read through a `Reader` (the
optimiser's tape), which hands out just the rows of the batch and later updates just those; without one the weights
are read directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import nn
from torch.nn import functional

from ctrbench.nn.plan import Build, Schema

EMBEDDING_STD = 0.05


class Inputs(Protocol):
    """One batch as a model reads it; `data.batches.Batch` is one."""

    @property
    def ids_BF(self) -> torch.Tensor:
        """Ids of the one-id fields."""

    @property
    def bags(self) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
        """For each pooled field its values, all rows on end, and the offsets (B + 1) of the rows in them."""

    @property
    def numeric_BK(self) -> torch.Tensor:
        """Plain numbers, standardised."""

    @property
    def domain_B(self) -> torch.Tensor:
        """Composite domain ids, 0 = unseen."""

    @property
    def indicator_B(self) -> torch.Tensor:
        """Ids of the indicator p, 0 = unseen."""


class RowTable(nn.Module):
    """Parameters of which a batch needs only some rows.

    `rule` says what an optimiser does with rows that a batch does not touch: `embedding` rows follow the run's choice
    of Adam, `domain` rows never move and count their own steps.
    """

    def __init__(self, start: torch.Tensor, rule: Literal["embedding", "domain"]) -> None:
        super().__init__()
        self.rule = rule
        self.weight = nn.Parameter(start)


class Reader(Protocol):
    """Hands out rows of tables, so that their gradients can be found again."""

    def read(self, table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
        """Return the rows (distinct ids), current as of this step, with their own gradient."""


def read_rows(reader: Reader | None, table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
    """Read distinct rows of a table, through the reader where there is one."""
    return table.weight.index_select(0, rows_U) if reader is None else reader.read(table, rows_U)


class FieldEmbedding(nn.Module):
    """Embeds all fields of a batch and concatenates them to z; see `Schema.slices` for the layout."""

    offsets: torch.Tensor

    def __init__(self, schema: Schema, build: Build) -> None:
        super().__init__()
        self.schema = schema
        tables = (*schema.single_fields, *schema.bag_fields)
        sizes = [field.size for field in tables]
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        offsets = torch.tensor(starts[: len(schema.single_fields)], dtype=torch.int64)
        self.register_buffer("offsets", offsets, persistent=False)
        self.bag_starts = starts[len(schema.single_fields) :]
        self.table = RowTable(self._start(schema, build), "embedding")

    @staticmethod
    def _start(schema: Schema, build: Build) -> torch.Tensor:
        # Without rare values sent to it, the row of unseen values is never trained and stays at zero.
        parts = []
        for field in (*schema.single_fields, *schema.bag_fields):
            part = torch.empty(field.size, schema.embedding_size)
            part.normal_(std=EMBEDDING_STD, generator=build.generator(f"embedding.{field.name}"))
            part[0] = 0.0
            parts.append(part)
        return torch.cat(parts) if parts else torch.empty(0, schema.embedding_size)

    def forward(self, inputs: Inputs, reader: Reader | None = None) -> torch.Tensor:
        """Return z of shape (B, N)."""
        ids_BF = inputs.ids_BF + self.offsets
        values = [bag[0] + start for bag, start in zip(inputs.bags, self.bag_starts, strict=True)]
        weight: torch.Tensor = self.table.weight
        if reader is not None:
            flat = torch.cat([ids_BF.flatten(), *values])
            rows_U, inverse = torch.unique(flat, return_inverse=True)
            weight = reader.read(self.table, rows_U)
            first, *values = inverse.split([ids_BF.numel(), *(len(value) for value in values)])
            ids_BF = first.view_as(ids_BF)
        parts = [functional.embedding(ids_BF, weight).flatten(1)]
        for (_, offsets), value in zip(inputs.bags, values, strict=True):
            parts.append(self._pool(weight, value, offsets))
        return torch.cat([*parts, inputs.numeric_BK], dim=1)

    @staticmethod
    def _pool(weight_UE: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        # An empty list pools to zero, as an unseen value does.
        offsets = offsets.to(values.dtype)
        return functional.embedding_bag(values, weight_UE, offsets, mode="mean", include_last_offset=True)
