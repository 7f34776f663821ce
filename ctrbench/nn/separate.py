"""A whole model of its own for each value of the indicator: what a `CTRModel` is made of where its plan says so.

Each value's embeddings and network see its rows alone and learn as if the others were not there, Adam's step counts
included. Rows of an unseen value go to the largest one's model (METHODS 0.4).

Shapes in names: B rows, n ids, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.plan import Build, Pooling, Schema
from ctrbench.nn.pooling import RowLoss, take_lists, together
from ctrbench.nn.routing import Routing
from ctrbench.nn.stages import BatchNormModule
from ctrbench.nn.tables import (
    FieldEmbedding,
    Inputs,
    Reader,
    RowTable,
    find_rows,
    rows_at,
    sequence_poolings,
)

if TYPE_CHECKING:
    from ctrbench.nn.model import Context


class SeparateEmbedding(FieldEmbedding):
    """A copy of all rows for each value of the indicator; all copies start alike."""

    of_domains = True

    def make_table(self, start: torch.Tensor) -> None:
        """Make a table for each value of the indicator, in the order of its ids from 1 on."""
        count = self.schema.num_indicators
        self.tables = nn.ModuleList(
            RowTable(start.clone(), "embedding", own_steps=True) for _ in range(count)
        )

    def make_poolings(self, pooling: Pooling, build: Build) -> None:
        """Keep for each value what pools its rows' sequences; all copies start alike."""
        copies = [sequence_poolings(pooling, build) for _ in range(self.schema.num_indicators)]
        self.poolings = nn.ModuleList(copies if pooling.kind != "mean" else ())

    def attend(
        self,
        number: int,
        rows_nE: torch.Tensor,
        offsets: torch.Tensor,
        target_BE: torch.Tensor,
        inputs: Inputs,
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Pool each value's lists by its own weights; negatives are its own rows' too."""
        routing, device = Routing(self.schema.known(inputs.indicator_B), rows_nE.device), rows_nE.device
        order_B = torch.cat([rows for _, rows in routing.members])
        pooled, losses = [], []
        for one, rows in routing.members:
            place_n, own = take_lists(offsets, rows)
            module = self.poolings[one - 1][number]  # type: ignore[index]
            found, loss = module(
                rows_nE.index_select(0, moved(place_n, device)),
                own,
                target_BE.index_select(0, moved(rows, device)),
            )
            pooled.append(found)
            losses.append(loss)
        back_B = torch.empty_like(order_B).scatter_(0, order_B, torch.arange(len(order_B)))
        there_B = moved(back_B, device)
        return torch.cat(pooled).index_select(0, there_B), together(losses, back_B, there_B)

    def find(self, ids_n: torch.Tensor, inputs: Inputs, reader: Reader | None) -> torch.Tensor:
        """Return the row of each id, from the table of the batch row that it stands in."""
        owner_n = self._rows_of_ids(inputs, len(ids_n))
        routing = Routing(self.schema.known(inputs.indicator_B)[owner_n], ids_n.device)
        places = [(one, moved(place_n, ids_n.device)) for one, place_n in routing.members]
        found = [find_rows(reader, self._table(one), ids_n.index_select(0, place)) for one, place in places]
        if len(found) == 1:
            return found[0]
        order_n = torch.cat([place for _, place in places])
        inverse_n = torch.empty_like(order_n).scatter_(
            0, order_n, torch.arange(len(order_n), device=order_n.device)
        )
        return rows_at(torch.cat(found), inverse_n)

    def _table(self, indicator: int) -> RowTable:
        table = self.tables[indicator - 1]
        assert isinstance(table, RowTable)
        return table

    def _rows_of_ids(self, inputs: Inputs, num_ids: int) -> torch.Tensor:
        """Return the batch row of each id, on the CPU."""
        num_rows = len(inputs.indicator_B)
        bags = inputs.bags if self.bags is None else [inputs.bags[place] for place in self.bags]
        of_bags = [torch.repeat_interleave(offsets.diff()) for _, offsets in bags]
        num_single = (num_ids - sum(len(rows) for rows in of_bags)) // max(1, num_rows)
        return torch.cat([torch.arange(num_rows).repeat_interleave(num_single), *of_bags])


class SeparateNetworks(nn.Module):
    """A network for each value of the indicator; a row runs through its own alone."""

    of_domains = True

    @property
    def refuses_workers(self) -> str | None:
        """Why a batch can't be cut by workers: they would not all run the network whose moments are shared."""
        has_norm = any(isinstance(module, BatchNormModule) for module in self.modules())
        return "norm=bn in a model for each domain, of which a worker may have no rows" if has_norm else None

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, context: Context) -> torch.Tensor:
        """Return logits of shape (B,)."""
        members = context.known_routing.members
        if len(members) == 1:
            logit_B: torch.Tensor = self.networks[members[0][0] - 1](context)
            return logit_B
        logits = []
        for indicator, rows in members:
            part = context.part(rows)
            logits.append(self.networks[indicator - 1](part))
            share = len(rows) / len(context.z_BN)
            context.penalties += [share * penalty for penalty in part.penalties]
            context.logs |= part.logs
        found = torch.cat(logits)
        order_B = moved(torch.cat([rows for _, rows in members]), found.device)
        return torch.empty_like(found).index_copy(0, order_B, found)


def check_separable(schema: Schema, most: int) -> None:
    """Refuse more models than were meant; each is as large as the backbone with its embeddings."""
    if schema.num_indicators > most:
        raise SettingError(
            f"a model for each domain needs at most {most} domains",
            value=f"{schema.num_indicators} values of the indicator",
            remedy="index by a coarser feature (--indicator), take fewer features (--domains), or raise max_domains",
        )


def moved(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return row numbers, which are on the CPU, on the device, without waiting for it."""
    return rows if device.type == "cpu" else rows.pin_memory().to(device, non_blocking=True)
