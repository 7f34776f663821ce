"""Tables whose rows are read by id.

In training, tables are read through a `Reader`, the optimizer, which updates only the rows that were read. Elsewhere
the weights are read directly.

Shapes in names: U distinct table rows, n ids.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import nn

from ctrbench.nn.exchange import Team

EMBEDDING_STD = 0.05
"""Standard deviation of embeddings at the start."""


class RowTable(nn.Module):
    """Parameters of which a batch uses only some rows.

    `rule` is the optimizer's treatment of rows that a batch does not touch: `embedding` rows follow the run's
    `embedding_rule`, `domain` rows do not move and count their own steps. With `own_steps`, the table counts only the
    steps that read it, not those of the model. Weight decay applies to the first `num_decayed` numbers of a `domain`
    row.
    """

    def __init__(
        self,
        start: torch.Tensor,
        rule: Literal["embedding", "domain"],
        *,
        own_steps: bool = False,
        num_decayed: int = 0,
    ) -> None:
        super().__init__()
        self.rule, self.own_steps, self.num_decayed = rule, own_steps, num_decayed
        self.weight = nn.Parameter(start)


class Reader(Protocol):
    """Interface of the optimizer that reads table rows, and so receives their gradients."""

    @property
    def team(self) -> Team | None:
        """The workers that share the step's batch; None in single-process training."""

    @property
    def generator(self) -> torch.Generator:
        """Random numbers of the step: a function of the run's seed, the number of the step, and the worker."""

    def read(self, table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
        """Return the rows of distinct ids as a leaf tensor, with missed optimizer steps applied.

        The gradient of the leaf updates the rows.
        """

    def lookup(self, table: RowTable, ids_n: torch.Tensor) -> torch.Tensor:
        """Return the row of each id; ids may repeat."""


def read_rows(reader: Reader | None, table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
    """Return distinct rows of a table, through the reader if there is one."""
    return table.weight.index_select(0, rows_U) if reader is None else reader.read(table, rows_U)


def look_up(reader: Reader | None, table: RowTable, ids_n: torch.Tensor) -> torch.Tensor:
    """Return the row of each id, through the reader if there is one; ids may repeat."""
    return table.weight.index_select(0, ids_n) if reader is None else reader.lookup(table, ids_n)
