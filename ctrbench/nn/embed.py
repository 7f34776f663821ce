"""The encoder that turns a batch's ids into the input vector z.

All fields share one table, so a batch costs one gather.

Shapes in names: B rows, F fields, E embedding size, K plain numbers, n ids, N inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.capabilities import Capabilities
from ctrbench.nn.gather import mean_rows
from ctrbench.nn.lists import Behaviors, Lists
from ctrbench.nn.pooling import Pooling, RowLoss, make_pooling
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.tables import Reader, RowTable, look_up

ID_ROLES = ("user", "item", "shop", "ad")
"""Roles of fields that can identify a user, an item, a shop or an ad."""
MIN_DROPPED_IDS = 100
"""Smallest number of ids of a field to which `id_dropout` applies; others, such as an age, hardly have unseen ids."""


class Inputs(Protocol):
    """One batch of rows as a model reads it; `data.batches.Batch` implements it."""

    @property
    def ids_BF(self) -> torch.Tensor:
        """Ids of the one-id fields."""

    @property
    def bags(self) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
        """Per pooled field, the values of all rows concatenated, and the offsets (B + 1) of rows, on the CPU."""

    @property
    def numeric_BK(self) -> torch.Tensor:
        """Plain numbers, standardized."""

    @property
    def domain_B(self) -> torch.Tensor:
        """Composite domain ids, 0 = unseen; on the CPU."""

    @property
    def indicator_B(self) -> torch.Tensor:
        """Values of the indicator p, 0 = unseen; on the CPU."""

    @property
    def copies_BD(self) -> torch.Tensor | None:
        """Ids of `Schema.copies`; None if there are none."""


class FieldEmbedding(nn.Module, Capabilities):
    """Embeds all fields of a batch and concatenates them to z; see `Schema.slices` for the layout.

    With `first_order`, a table row has one more number, the first-order weight of its id. A sequence with a target
    uses the target's rows; `pooling` pools its embeddings, while its first-order weights are averaged.
    """

    offsets: torch.Tensor
    """First table row of each one-id field, then of each of `Schema.copies`."""
    columns: torch.Tensor | None
    """Columns of the one-id fields that are not hidden; None if all are used."""
    numbers: torch.Tensor | None
    """Columns of the plain numbers that are not hidden; None if all are used."""

    table_row_of: torch.Tensor | None
    """Table row that each id reads, its own or that of the unseen id; None if all read their own."""
    dropped: torch.Tensor
    """Columns of the one-id fields whose ids `id_dropout` replaces."""

    def __init__(
        self,
        schema: Schema,
        build: Build,
        *,
        first_order: bool = False,
        pooling: Pooling | None = None,
        id_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.schema, self.first_order, self.id_dropout = schema, first_order, id_dropout
        complete = replace(schema, hidden=())
        self.bags = _visible_indices(complete.bag_fields, schema)
        columns, numbers = (
            None if indices is None else torch.tensor(indices, dtype=torch.int64)
            for indices in (
                _visible_indices(complete.single_fields, schema),
                _visible_indices(complete.numeric_fields, schema),
            )
        )
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("numbers", numbers, persistent=False)
        first_rows = _first_rows(schema)
        single = [first_rows[field.name] for field in schema.single_fields] + _first_rows_of_copies(schema)
        self.register_buffer("offsets", torch.tensor(single, dtype=torch.int32), persistent=False)
        self.register_buffer("table_row_of", _rows_without_rare_ids(schema), persistent=False)
        dropped = _columns_of_ids(schema) if id_dropout else []
        self.register_buffer("dropped", torch.tensor(dropped, dtype=torch.int64), persistent=False)
        self.bag_starts = [first_rows[field.name] for field in schema.bag_fields]
        self.make_poolings(pooling or Pooling(), build)
        start = self._initial_table(schema, build)
        if first_order:
            start = torch.cat([start, start.new_zeros(len(start), 1)], dim=1)
        self.make_table(start)

    def make_table(self, start: torch.Tensor) -> None:
        """Create the table of all fields with these values."""
        self.table = RowTable(start, "embedding")

    def make_poolings(self, pooling: Pooling, build: Build) -> None:
        """Create the pooling of each sequence with a target."""
        self.poolings = sequence_poolings(pooling, build)

    @staticmethod
    def _initial_table(schema: Schema, build: Build) -> torch.Tensor:
        # Unless rare values are mapped to it, the row of unseen values is never trained and stays at zero.
        parts = []
        for field in schema.table_fields:
            part = torch.empty(field.size, schema.embedding_size)
            part.normal_(std=build.embedding_std, generator=build.generator(f"embedding.{field.name}"))
            part[0] = 0.0
            parts.append(part)
        for field in schema.copies:
            copy = torch.empty(field.size, schema.embedding_size)
            copy.normal_(std=build.embedding_std, generator=build.generator(f"embedding.{field.name}.copy"))
            copy[0] = 0.0
            parts.append(copy)
        return torch.cat(parts) if parts else torch.empty(0, schema.embedding_size)

    def forward(
        self,
        inputs: Inputs,
        reader: Reader | None = None,
        losses: list[RowLoss] | None = None,
        behaviors: dict[str, Behaviors] | None = None,
        copies: list[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return z of shape (B, N), and with `first_order` the weights (B, F) of the fields' ids, else None.

        Losses of the pooling of sequences are appended to `losses`; the elements of sequences with a target are added
        to `behaviors`, and the concatenated embeddings of `Schema.copies` to `copies`, if these are given.
        """
        bags = inputs.bags if self.bags is None else [inputs.bags[index] for index in self.bags]
        offsets = [bag_offsets for _, bag_offsets in bags]
        single_BFE, lists = self._table_rows(inputs, bags, reader)
        if self.schema.has_copies:
            single_BFE, copies_BDE = single_BFE.tensor_split([len(self.schema.single_fields)], dim=1)
            if copies is not None:
                copies.append(copies_BDE[:, :, : self.schema.embedding_size].flatten(1))
        if behaviors is not None:
            behaviors |= self._behaviors(lists, offsets, single_BFE)
        pooled = [
            self._pool_sequences(
                field, rows, bag_offsets, single_BFE, inputs, [] if losses is None else losses
            )
            for field, rows, bag_offsets in zip(self.schema.bag_fields, lists, offsets, strict=True)
        ]
        weights_BF = None
        if self.first_order:
            weights_BF = torch.cat([single_BFE[:, :, -1], *(rows[:, -1:] for rows in pooled)], dim=1)
            single_BFE, pooled = single_BFE[:, :, :-1], [rows[:, :-1] for rows in pooled]
        numbers_BK = _select_fields(inputs.numeric_BK, self.numbers)
        width = single_BFE.shape[1] * self.schema.embedding_size
        parts = [single_BFE.reshape(len(single_BFE), width), *pooled]
        if numbers_BK.shape[1]:
            parts.append(numbers_BK)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], weights_BF

    def _table_rows(
        self, inputs: Inputs, bags: Sequence[tuple[torch.Tensor, torch.Tensor]], reader: Reader | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the table rows of one-id fields, (B, F, E), and those of each bag's values, (n, E)."""
        ids_BF = _select_fields(inputs.ids_BF, self.columns)
        if self.id_dropout and self.training:
            ids_BF = self._drop_ids(ids_BF, None if reader is None else reader.generator)
        if inputs.copies_BD is not None:
            ids_BF = torch.cat([ids_BF, inputs.copies_BD], dim=1)
        ids_BF = ids_BF + self.offsets
        values = [bag[0] + start for bag, start in zip(bags, self.bag_starts, strict=True)]
        ids_n = torch.cat([ids_BF.flatten(), *values]) if values else ids_BF.flatten()
        if self.table_row_of is not None:
            ids_n = self.table_row_of.index_select(0, ids_n)
        rows_nE = self.find(ids_n, inputs, reader)
        single, *lists = torch.split(rows_nE, [ids_BF.numel(), *(len(value) for value in values)])
        return single.view(*ids_BF.shape, single.shape[1]), lists

    def _drop_ids(self, ids_BF: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Replace ids by the unseen one, in each row and field of `dropped` independently."""
        shape = (len(ids_BF), len(self.dropped))
        is_dropped_BK = torch.rand(shape, generator=generator, device=ids_BF.device) < self.id_dropout
        kept_BK = ids_BF.index_select(1, self.dropped).masked_fill(is_dropped_BK, 0)
        return ids_BF.index_copy(1, self.dropped, kept_BK)

    def _behaviors(
        self, lists: Sequence[torch.Tensor], offsets: Sequence[torch.Tensor], single_BFE: torch.Tensor
    ) -> dict[str, Behaviors]:
        """Return the elements of the sequences with a target, by field."""
        indices = {field.name: index for index, field in enumerate(self.schema.bag_fields)}
        size = self.schema.embedding_size
        return {
            name: Behaviors(
                rows_nE=lists[indices[name]][:, :size],
                lists=Lists(offsets[indices[name]], single_BFE.device),
                target_BE=single_BFE[:, target, :size],
            )
            for name, target in self.schema.targets.items()
        }

    def _pool_sequences(
        self,
        field: FieldShape,
        rows: torch.Tensor,
        offsets: torch.Tensor,
        single_BFE: torch.Tensor,
        inputs: Inputs,
        losses: list[RowLoss],
    ) -> torch.Tensor:
        """Pool a field's lists; the first-order weight behind the embedding is always averaged."""
        size = self.schema.embedding_size
        target = self.schema.targets.get(field.name)
        if target is None or not len(self.poolings):
            return mean_rows(rows, offsets)
        pooled_BE, loss = self.attend(
            list(self.schema.targets).index(field.name),
            rows[:, :size], offsets, single_BFE[:, target, :size], inputs,
        )  # fmt: skip
        if loss is not None:
            losses.append(loss)
        if not self.first_order:
            return pooled_BE
        return torch.cat([pooled_BE, mean_rows(rows[:, size:], offsets)], dim=1)

    def pooling_copies(self, index: int) -> list[nn.Module]:
        """Return the modules that pool the sequence of that index in `Schema.targets`; none for the mean."""
        return [self.poolings[index]] if len(self.poolings) else []

    def attend(
        self,
        index: int,
        rows_nE: torch.Tensor,
        offsets: torch.Tensor,
        target_BE: torch.Tensor,
        inputs: Inputs,
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Pool the lists of the sequence of that index in `Schema.targets`, given the rows' targets."""
        pooled: tuple[torch.Tensor, RowLoss | None] = self.poolings[index](rows_nE, offsets, target_BE)
        return pooled

    def find(self, ids_n: torch.Tensor, inputs: Inputs, reader: Reader | None) -> torch.Tensor:
        """Return the table row of each id: first those of one-id fields, row by row, then those of each bag."""
        return look_up(reader, self.table, ids_n)


def sequence_poolings(pooling: Pooling, build: Build) -> nn.ModuleList:
    """Return the pooling of each sequence with a target, in the order of `Schema.targets`; none for the mean."""
    modules = (make_pooling(pooling, name, build) for name in build.schema.targets)
    return nn.ModuleList(module for module in modules if module is not None)


def _first_rows(schema: Schema) -> dict[str, int]:
    """Return the first table row of each field; a sequence with a target has that of its target."""
    sizes = [field.size for field in schema.table_fields]
    first_rows = {field.name: sum(sizes[:index]) for index, field in enumerate(schema.table_fields)}
    targets = {name: schema.single_fields[index].name for name, index in schema.targets.items()}
    return first_rows | {name: first_rows[target] for name, target in targets.items()}


def _rows_without_rare_ids(schema: Schema) -> torch.Tensor | None:
    """Return the table row that each id of all fields reads; rare ids read the row of the unseen id of their field."""
    if not schema.rare_ids:
        return None
    fields = (*schema.table_fields, *schema.copies)
    parts, start = [], 0
    for field in fields:
        ids = np.arange(field.size, dtype=np.int32)
        is_rare = schema.rare_ids.get(field.name)
        parts.append(start + (ids if is_rare is None else np.where(is_rare, 0, ids)))
        start += field.size
    return torch.from_numpy(np.concatenate(parts).astype(np.int32))


def _columns_of_ids(schema: Schema) -> list[int]:
    """Return the columns of the fields to which `id_dropout` applies; a `SettingError` if there is none."""
    columns = [
        index
        for index, field in enumerate(schema.single_fields)
        if field.kind == "categorical"
        and field.role in ID_ROLES
        and field.size > MIN_DROPPED_IDS
        and field.name not in schema.domain_features
    ]
    if not columns:
        raise SettingError(
            f"id_dropout needs a one-id field of {MIN_DROPPED_IDS} or more ids, with a role of {', '.join(ID_ROLES)}",
            value="the model has none besides domain features",
            remedy="leave it out, or set the roles of the fields in the dataset's card",
        )
    return columns


def _first_rows_of_copies(schema: Schema) -> list[int]:
    """Return the first table row of each of `Schema.copies`, which follow all fields."""
    start = sum(field.size for field in schema.table_fields)
    sizes = [field.size for field in schema.copies]
    return [start + sum(sizes[:index]) for index in range(len(sizes))]


def _select_fields(values_BF: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    return values_BF if columns is None else values_BF.index_select(1, columns)


def _visible_indices(fields: Sequence[FieldShape], schema: Schema) -> list[int] | None:
    """Return the indices of the fields that are not hidden; None for all."""
    indices = [index for index, field in enumerate(fields) if field.name not in schema.hidden]
    return None if len(indices) == len(fields) else indices
