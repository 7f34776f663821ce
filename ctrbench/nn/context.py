"""The state that the stages of one forward pass share about a batch.

Domain ids, e_d, the grouping of rows and the penalties and figures that stages report travel in a `Context`, which
lives for one forward pass, so no module stores anything about a batch.

Shapes in names: B rows, N inputs, F fields, E embedding size, G groups present in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ctrbench.nn.exchange import Team
from ctrbench.nn.gather import to_device
from ctrbench.nn.lists import Behaviors
from ctrbench.nn.pooling import RowLoss
from ctrbench.nn.routing import Routing
from ctrbench.nn.schema import Schema
from ctrbench.nn.tables import Reader, RowTable, read_rows


@dataclass(kw_only=True)
class Context:
    """State of one forward pass: the batch's embeddings, domains and groups, and the scalars that stages add."""

    schema: Schema
    z_BN: torch.Tensor
    """The input vector, as the embeddings return it."""
    domain_B: torch.Tensor
    """Composite domain ids, 0 = unseen; always on the CPU."""
    indicator_B: torch.Tensor
    """Values of the indicator p, which indexes per-domain parameters, 0 = unseen; always on the CPU."""
    copies_BE: torch.Tensor | None = None
    """Embeddings of the shuffled copies of the domain features, which e_d consists of; None: e_d is part of z."""
    reader: Reader | None = None
    """The optimizer that reads table rows in training; None: rows are read directly."""
    first_order_BF: torch.Tensor | None = None
    """First-order weights of the ids, if the plan has them; one column per embedded field, in the order of z."""
    gated_BN: torch.Tensor | None = None
    """z weighted by a stage such as EPNet's gate, if there is one."""
    behaviors: dict[str, Behaviors] = field(default_factory=dict)
    """The elements of each sequence with a target, if the plan attends to them."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Values that stages of one method pass to later ones, under names that the method chooses."""
    row_losses: tuple[RowLoss, ...] = ()
    """Losses of the embeddings, such as DIEN's auxiliary loss; the network adds their means to `penalties`."""
    penalties: list[torch.Tensor] = field(default_factory=list)
    """Scalars that stages add to the loss, such as AdaSparse's sparsity term."""
    logs: dict[str, torch.Tensor] = field(default_factory=dict)
    """Scalars that stages log, such as the share of pruned neurons."""

    @property
    def team(self) -> Team | None:
        """The workers that have the other rows of the step's batch; None if there is one worker.

        A stage that depends on other rows in training must account for them: moments are computed over all workers'
        rows, and a penalty that is a mean over rows is multiplied by `share`.
        """
        return None if self.reader is None else self.reader.team

    @property
    def share(self) -> float:
        """Share of the step's rows that this worker has; 1 if there is one worker."""
        return 1.0 if self.team is None else self.team.share

    @property
    def generator(self) -> torch.Generator | None:
        """Source of random numbers in training, such as of dropout; None without an optimizer: torch's global one.

        It depends on the run's seed, the number of the step and the worker only, so resumed training draws the same
        numbers.
        """
        return None if self.reader is None else self.reader.generator

    @cached_property
    def domain_BE(self) -> torch.Tensor:
        """e_d: the embeddings of the domain-aware features, concatenated."""
        slices = self.schema.domain_slices
        if self.copies_BE is not None:
            return self.copies_BE
        return torch.cat([self.z_BN[:, columns] for columns in slices], dim=1)

    def embedding_of(self, field: str) -> torch.Tensor:
        """Return the embedding of a field; of a domain feature, the part of e_d."""
        columns = self.schema.slices[field]
        if self.copies_BE is None or field not in self.schema.domain_features:
            return self.z_BN[:, columns]
        size, index = self.schema.embedding_size, self.schema.domain_features.index(field)
        return self.copies_BE[:, index * size : (index + 1) * size]

    @property
    def embeddings_BN(self) -> torch.Tensor:
        """z as interactions and towers read it: weighted, if a stage weights it."""
        return self.z_BN if self.gated_BN is None else self.gated_BN

    @cached_property
    def domain_GE(self) -> torch.Tensor:
        """e_d of each domain present, in the order of `domain_routing`; for domain 0, of its first row."""
        return self.domain_BE.index_select(0, self.domain_routing.first_G)

    @cached_property
    def routing(self) -> Routing:
        """The rows grouped by the indicator p."""
        return Routing(self.indicator_B, self.z_BN.device)

    @cached_property
    def domain_routing(self) -> Routing:
        """The rows grouped by the composite domain."""
        is_same = self.domain_B.data_ptr() == self.indicator_B.data_ptr()
        return self.routing if is_same else Routing(self.domain_B, self.z_BN.device)

    @cached_property
    def seen_routing(self) -> Routing:
        """The rows grouped by the indicator, rows of an unseen one with the largest (spec: conventions-0.4)."""
        if not self.routing.has(0):
            return self.routing
        return Routing(self.schema.replace_unseen(self.indicator_B), self.z_BN.device)

    def read(self, table: RowTable, routing: Routing | None = None) -> torch.Tensor:
        """Return the rows of a per-domain table for the groups of a routing (default: `routing`), in their order."""
        return read_rows(self.reader, table, (routing or self.routing).present_G)

    def part(self, rows: slice | torch.Tensor) -> Context:
        """Return the context of some rows of the batch, with its own penalties and logs.

        `rows` are distinct row numbers on the CPU.
        """
        on_device = rows if isinstance(rows, slice) else to_device(rows, self.z_BN.device)
        return replace(
            self,
            z_BN=self.z_BN[on_device],
            domain_B=self.domain_B[rows],
            indicator_B=self.indicator_B[rows],
            copies_BE=None if self.copies_BE is None else self.copies_BE[on_device],
            first_order_BF=None if self.first_order_BF is None else self.first_order_BF[on_device],
            gated_BN=None,
            row_losses=tuple(loss.part(rows, on_device) for loss in self.row_losses),
            behaviors={name: sequence.part(rows, on_device) for name, sequence in self.behaviors.items()},
            shared={},
            penalties=[],
            logs={},
        )

    def detached(self) -> Context:
        """Return the context with embeddings that pass no gradient on."""
        weights_BF = None if self.first_order_BF is None else self.first_order_BF.detach()
        return replace(
            self,
            z_BN=self.z_BN.detach(),
            copies_BE=None if self.copies_BE is None else self.copies_BE.detach(),
            first_order_BF=weights_BF,
            gated_BN=None,
            row_losses=(),
            behaviors={name: sequence.detached() for name, sequence in self.behaviors.items()},
            shared={},
            penalties=[],
            logs={},
        )
