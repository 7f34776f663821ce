"""Gates of EPNet and PPNet, which multiply each number by a factor between 0 and γ (spec: pepnet-7.4).

EPNet is the embedding gate, PPNet a gate before each dense layer, PEPNet both. The embedding gate stores its output in
the batch's context, since the gates of PPNet read the embeddings that the network receives.

Shapes in names: B rows, N inputs, M outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.embed import ID_ROLES
from ctrbench.nn.routing import full_precision
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.stages import Dense, Stage, StageModule

Prior = Literal["ids", "domain"]


@dataclass(frozen=True, kw_only=True)
class _GateStage(Stage):
    """Settings of all gates."""

    gamma: float = 2.0
    """Largest factor."""
    hidden: int | None = None
    """Width of the unit's hidden layer; None: the number of factors."""


class GateUnit(nn.Module):
    """δ = γ σ(ReLU(x A + a) A' + a'); A' and a' start at zero, so that δ starts at γ/2."""

    def __init__(self, stage: _GateStage, num_inputs: int, num_outputs: int, build: Build) -> None:
        super().__init__()
        self.gamma = stage.gamma
        width = stage.hidden or num_outputs
        hidden = Dense(name=f"{stage.name}.hidden", width=width, activation="relu")
        output = Dense(name=f"{stage.name}.output", width=num_outputs)
        self.hidden, self.output = hidden.build(num_inputs, build), output.build(width, build)
        nn.init.zeros_(self.output.get_parameter("weight"))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Return the factors δ, (B, N) to (B, M)."""
        hidden_BN = self.hidden(x_BN, context)
        # Always in float32: near 1 a factor in bf16 has a resolution of 0.4 %.
        with full_precision(x_BN.device):
            return self.gamma * torch.sigmoid(self.output(hidden_BN.float(), context))


@dataclass(frozen=True, kw_only=True)
class EmbeddingGate(_GateStage):
    """O = δ ⊙ E with δ = Gate([e_d ; sg(E)]), where E is the whole input vector."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; with γ = 2 it starts as the identity."""
        return EmbeddingGateModule(self, num_inputs, build)


class EmbeddingGateModule(StageModule):
    """Computes `EmbeddingGate`; gradients reach E through the product, and e_d through the gate too."""

    def __init__(self, stage: EmbeddingGate, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        self.unit = GateUnit(stage, build.schema.domain_width + num_inputs, num_inputs, build)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        factors_BN = self.unit(torch.cat([context.domain_BE, x_BN.detach()], dim=1), context)
        context.gated_BN = factors_BN * x_BN
        return context.gated_BN


@dataclass(frozen=True, kw_only=True)
class PriorGate(_GateStage):
    """δ ⊙ h with δ = Gate([prior ; sg(O)]), where O are the embeddings that the network receives."""

    prior: Prior = "ids"
    """The embeddings of the id fields, or e_d."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; with γ = 2 it starts as the identity."""
        return PriorGateModule(self, num_inputs, build)


class PriorGateModule(StageModule):
    """Computes `PriorGate`; gradients reach the prior through the gate."""

    def __init__(self, stage: PriorGate, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, schema = num_inputs, build.schema
        ids = id_fields(schema) if stage.prior == "ids" else ()
        # The width of e_d is an error if the domain features are hidden.
        width = schema.num_inputs + (len(ids) * schema.embedding_size or schema.domain_width)
        self.prior_fields = ids or schema.domain_features
        self.unit = GateUnit(stage, width, num_inputs, build)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        prior = [context.embedding_of(name) for name in self.prior_fields]
        inputs_BN = torch.cat([*prior, context.embeddings_BN.detach()], dim=1)
        gated_BN: torch.Tensor = self.unit(inputs_BN, context) * x_BN
        return gated_BN


def id_fields(schema: Schema) -> tuple[str, ...]:
    """Return the names of the id fields: per role in `ID_ROLES`, the one-id field with the most ids.

    This selects the id of a user, item, shop or ad over its brand or level. Bucketed numbers and domain features are
    not id fields. Raises `SettingError` if there is none.
    """
    fields = [
        field
        for field in schema.single_fields
        if field.kind == "categorical" and field.name not in schema.domain_features
    ]
    by_role = ([field for field in fields if field.role == role] for role in ID_ROLES)
    names = tuple(max(candidates, key=_table_size).name for candidates in by_role if candidates)
    if not names:
        roles = ", ".join(sorted({field.role for field in fields})) or "none"
        raise SettingError(
            f"ppnet_prior=ids needs a one-id field that is no domain feature and has a role of {', '.join(ID_ROLES)}",
            value=f"roles of the one-id fields: {roles}",
            remedy="choose ppnet_prior=domain, or set the roles of the fields in the dataset's card",
        )
    return names


def _table_size(field: FieldShape) -> int:
    return field.size
