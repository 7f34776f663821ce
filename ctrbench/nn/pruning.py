"""Gates that prune: each number is multiplied by a factor of the domain and its neighbors, which may be zero.

    v_in = P [e_d ; h] + c,    output = h ⊙ π(v_in)

`kernels.gate.GateSettings` say how π follows from v_in. Training runs one fused pass over the rows; inference computes
the factors themselves. The schedule of the slope and the penalty on the pruned share belong to the method.

Shapes in names: B rows, N inputs, G groups of rows that share factors, E width of e_d.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

from ctrbench.nn.build import Build, start_weight
from ctrbench.nn.context import Context
from ctrbench.nn.kernels.gate import GateCall, GateSettings, Number, train_gate
from ctrbench.nn.routing import full_precision
from ctrbench.nn.stages import StageModule


class PruningGateModule(StageModule):
    """Computes h ⊙ π at one of `num_sites` gates of a model.

    Required: `slope`, `penalty` and `record`.
    """

    uses_team = True
    columns: torch.Tensor | None
    """Gated columns, where not all are."""

    def __init__(
        self,
        name: str,
        gate: GateSettings,
        num_inputs: int,
        build: Build,
        *,
        num_sites: int,
        takes_hidden: bool,
        scale: float,
        columns: torch.Tensor | None = None,
    ) -> None:
        """P starts Xavier uniform times `scale`, c at zero; without `takes_hidden` v_in is a function of e_d alone."""
        super().__init__()
        self.name, self.gate, self.num_sites, self.takes_hidden = name, gate, num_sites, takes_hidden
        self.num_outputs = num_inputs
        self.register_buffer("columns", columns, persistent=False)
        num_gated = num_inputs if columns is None else len(columns)
        width = build.schema.domain_width + (num_inputs if takes_hidden else 0)
        self.weight = nn.Parameter(
            scale * start_weight(width, num_gated, None, build.generator(f"{name}.weight"))
        )
        self.bias = nn.Parameter(torch.zeros(num_gated))

    @property
    @abstractmethod
    def slope(self) -> torch.Tensor | None:
        """The factor of v_in in the sigmoid; None: 1."""

    @abstractmethod
    def penalty(self, ratio: Number) -> tuple[Number, Number]:
        """Return the penalty on the share r of the gate, and its slope by r."""

    @abstractmethod
    def record(self, penalty: torch.Tensor, pruned: torch.Tensor, context: Context) -> None:
        """Add the penalty, already divided by the number of gates, and the pruned share to the context."""

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        gated_BN = x_BN if self.columns is None else x_BN.index_select(1, self.columns)
        if self.training:
            gated_BN = self._gate_in_training(gated_BN, x_BN, context)
        else:
            gated_BN = gated_BN * self.factors(x_BN, context)
        return gated_BN if self.columns is None else x_BN.index_copy(1, self.columns, gated_BN)

    def factors(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Return π of each row's gated neurons as at inference; 0 means pruned."""
        inputs = context.domain_BE
        if self.takes_hidden:
            inputs = torch.cat([inputs, x_BN], dim=1)
        # As in training, at any precision around it: a threshold must fall alike.
        with full_precision(x_BN.device):
            v_in = torch.addmm(self.bias, inputs.to(self.weight.dtype), self.weight)
            return self.gate.factors(self.gate.v_out(v_in, self.slope))

    def _gate_in_training(self, gated_BN: torch.Tensor, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        # Factors of e_d alone are those of the row's domain; only unseen domains share an id.
        is_grouped = not self.takes_hidden and not context.domain_routing.has(0)
        call = GateCall(
            settings=self.gate,
            slope=self.slope,
            penalty=self.penalty,
            num_sites=self.num_sites,
            takes_hidden=self.takes_hidden,
            routing=context.domain_routing if is_grouped else None,
            team=context.team,
        )
        domain_GE = context.domain_GE if is_grouped else context.domain_BE
        product, penalty, pruned = train_gate(gated_BN, x_BN, domain_GE, self.weight, self.bias, call)
        self.record(penalty, pruned, context)
        return product
