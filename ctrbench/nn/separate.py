"""One model per value of the indicator: the parts of a `CTRModel` whose plan has `separate`.

The embeddings and the network of a value are trained on its rows alone, Adam's step counts included. Rows of an unseen
value use the model of the largest one (spec: conventions-0.4).

Shapes in names: B rows, n ids, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.capabilities import Capabilities, uses_team
from ctrbench.nn.context import Context
from ctrbench.nn.embed import FieldEmbedding, Inputs, sequence_poolings
from ctrbench.nn.gather import rows_at, to_device
from ctrbench.nn.lists import take_lists
from ctrbench.nn.network import Network
from ctrbench.nn.pooling import Pooling, RowLoss, join_losses
from ctrbench.nn.routing import Routing
from ctrbench.nn.schema import Schema
from ctrbench.nn.tables import Reader, RowTable, look_up


class SeparateEmbedding(FieldEmbedding):
    """One copy of the embeddings per value of the indicator; all copies start equal."""

    of_domains = True

    def make_table(self, start: torch.Tensor) -> None:
        """Create one table per value of the indicator, in the order of the values from 1."""
        count = self.schema.num_indicators
        self.tables = nn.ModuleList(
            RowTable(start.clone(), "embedding", own_steps=True) for _ in range(count)
        )

    def make_poolings(self, pooling: Pooling, build: Build) -> None:
        """Create the poolings of sequences per value of the indicator; all copies start equal."""
        copies = [sequence_poolings(pooling, build) for _ in range(self.schema.num_indicators)]
        self.poolings = nn.ModuleList(copies if pooling.kind != "mean" else ())

    def pooling_copies(self, index: int) -> list[nn.Module]:
        """Return the pooling of each value of the indicator; none for the mean."""
        return [poolings[index] for poolings in self.poolings]  # type: ignore[index]

    def attend(
        self,
        index: int,
        rows_nE: torch.Tensor,
        offsets: torch.Tensor,
        target_BE: torch.Tensor,
        inputs: Inputs,
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Pool the lists of each value with its own weights; negatives are drawn from its own rows too."""
        device = rows_nE.device
        routing = Routing(self.schema.replace_unseen(inputs.indicator_B), device)
        order_B = torch.cat([rows for _, rows in routing.members])
        pooled, losses = [], []
        for indicator, rows in routing.members:
            elements_n, own_offsets = take_lists(offsets, rows)
            module = self.poolings[indicator - 1][index]  # type: ignore[index]
            pooled_BE, loss = module(
                rows_nE.index_select(0, to_device(elements_n, device)),
                own_offsets,
                target_BE.index_select(0, to_device(rows, device)),
            )
            pooled.append(pooled_BE)
            losses.append(loss)
        inverse_B = torch.empty_like(order_B).scatter_(0, order_B, torch.arange(len(order_B)))
        on_device_B = to_device(inverse_B, device)
        return torch.cat(pooled).index_select(0, on_device_B), join_losses(losses, inverse_B, on_device_B)

    def find(self, ids_n: torch.Tensor, inputs: Inputs, reader: Reader | None) -> torch.Tensor:
        """Return the table row of each id, from the table of its batch row's indicator."""
        owner_n = self._rows_of_ids(inputs, len(ids_n))
        routing = Routing(self.schema.replace_unseen(inputs.indicator_B)[owner_n], ids_n.device)
        members = [(indicator, to_device(index_n, ids_n.device)) for indicator, index_n in routing.members]
        rows = [
            look_up(reader, self._table_of(indicator), ids_n.index_select(0, index_n))
            for indicator, index_n in members
        ]
        if len(rows) == 1:
            return rows[0]
        order_n = torch.cat([index_n for _, index_n in members])
        inverse_n = torch.empty_like(order_n).scatter_(
            0, order_n, torch.arange(len(order_n), device=order_n.device)
        )
        return rows_at(torch.cat(rows), inverse_n)

    def _table_of(self, indicator: int) -> RowTable:
        table = self.tables[indicator - 1]
        assert isinstance(table, RowTable)
        return table

    def _rows_of_ids(self, inputs: Inputs, num_ids: int) -> torch.Tensor:
        """Return the batch row of each id, on the CPU."""
        num_rows = len(inputs.indicator_B)
        bags = inputs.bags if self.bags is None else [inputs.bags[index] for index in self.bags]
        bag_rows = [torch.repeat_interleave(offsets.diff()) for _, offsets in bags]
        num_single = (num_ids - sum(len(rows) for rows in bag_rows)) // max(1, num_rows)
        return torch.cat([torch.arange(num_rows).repeat_interleave(num_single), *bag_rows])


class SeparateNetworks(nn.Module, Capabilities):
    """One network per value of the indicator; a row passes through its own only."""

    of_domains = True

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.networks = cast("Sequence[Network]", nn.ModuleList(networks))
        # A network runs only on workers that have rows of its domain, so the others would not take part.
        if uses_team(self):
            self.refuses_workers = (
                "a stage of each domain's model, such as norm=bn, exchanges values between workers, and a worker may "
                "have no rows of a domain"
            )

    def forward(self, context: Context) -> torch.Tensor:
        """Return logits of shape (B,)."""
        members = context.seen_routing.members
        if len(members) == 1:
            whole_B: torch.Tensor = self.networks[members[0][0] - 1](context)
            return whole_B
        logits = []
        for indicator, rows in members:
            part = context.part(rows)
            logits.append(self.networks[indicator - 1](part))
            share = len(rows) / len(context.z_BN)
            context.penalties += [share * penalty for penalty in part.penalties]
            context.logs |= part.logs
        logit_B = torch.cat(logits)
        order_B = to_device(torch.cat([rows for _, rows in members]), logit_B.device)
        return torch.empty_like(logit_B).index_copy(0, order_B, logit_B)


def check_separable(schema: Schema, max_domains: int) -> None:
    """Raise `SettingError` if there are more than `most` models; each is as large as the backbone with embeddings."""
    if schema.num_indicators > max_domains:
        raise SettingError(
            f"one model per domain is possible with at most {max_domains} domains",
            value=f"{schema.num_indicators} values of the indicator",
            remedy="choose a coarser indicator (--indicator), fewer domain features (--domains), or raise max_domains",
        )
