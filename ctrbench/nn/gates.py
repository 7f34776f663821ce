"""Gates that weigh numbers one by one, from 0 to γ: the unit, one for the embeddings, one for a dense layer's input.

METHODS 7.4. EPNet is the embedding gate, PPNet a gate before each dense layer, PEPNet both. What the embedding gate
made is left with the batch's context, since PPNet's gates further on see the embeddings as the network is given them.

Shapes in names: B rows, N inputs, M outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.plan import Build, Dense, FieldShape, Schema, Stage, StageModule
from ctrbench.nn.routing import full_precision

if TYPE_CHECKING:
    from ctrbench.nn.model import Context

Prior = Literal["ids", "domain"]

ID_ROLES = ("user", "item", "shop", "ad")
"""Roles of fields that are somebody or something with an id."""


@dataclass(frozen=True, kw_only=True)
class _GateStage(Stage):
    """What all gates have in common."""

    gamma: float = 2.0
    """Largest factor."""
    hidden: int | None = None
    """Width of the unit's hidden layer; None: as many as are weighed."""


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
        # In float32, whatever the precision around it: near 1 a factor of bf16 moves in steps of 0.4 %.
        with full_precision(x_BN.device):
            return self.gamma * torch.sigmoid(self.output(hidden_BN.float(), context))


@dataclass(frozen=True, kw_only=True)
class EmbeddingGate(_GateStage):
    """O = δ ⊙ E with δ = Gate([e_d ; sg(E)]), for all of the input vector E at once."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; with γ = 2 it changes nothing at the start."""
        return EmbeddingGateModule(self, num_inputs, build)


class EmbeddingGateModule(StageModule):
    """Computes `EmbeddingGate`; E learns through the product, and e_d through the gate too."""

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
    """δ ⊙ h with δ = Gate([prior ; sg(O)]), O the embeddings as the network is given them."""

    prior: Prior = "ids"

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; with γ = 2 it changes nothing at the start."""
        return PriorGateModule(self, num_inputs, build)


class PriorGateModule(StageModule):
    """Computes `PriorGate`; the prior learns through the gate."""

    def __init__(self, stage: PriorGate, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, schema = num_inputs, build.schema
        ids = id_fields(schema) if stage.prior == "ids" else ()
        self.places = tuple(schema.slices[name] for name in ids) or schema.domain_slices
        seen = len(self.places) * schema.embedding_size + schema.num_inputs
        self.unit = GateUnit(stage, seen, num_inputs, build)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        prior = [context.z_BN[:, place] for place in self.places]
        seen_BN = torch.cat([*prior, context.embeddings_BN.detach()], dim=1)
        gated_BN: torch.Tensor = self.unit(seen_BN, context) * x_BN
        return gated_BN


def id_fields(schema: Schema) -> tuple[str, ...]:
    """Return the names of the id fields: of each role in `ID_ROLES`, the one-id field with the most ids.

    That is the user's, the item's, the shop's and the ad's own id, rather than their brand or level. Numbers in buckets
    and domain features are no ids.
    """
    fields = [
        field
        for field in schema.single_fields
        if field.kind == "categorical" and field.name not in schema.domain_features
    ]
    by_role = ([field for field in fields if field.role == role] for role in ID_ROLES)
    names = tuple(max(same, key=_size).name for same in by_role if same)
    if not names:
        roles = ", ".join(sorted({field.role for field in fields})) or "none"
        raise SettingError(
            f"ppnet_prior=ids needs a field, no domain feature, with one id a row and a role of {', '.join(ID_ROLES)}",
            value=f"roles of such fields here: {roles}",
            remedy="choose ppnet_prior=domain, or give the fields their roles in the dataset's card",
        )
    return names


def _size(field: FieldShape) -> int:
    return field.size
