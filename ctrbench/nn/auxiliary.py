"""The auxiliary network of STAR, which every method can have by the setting `aux`.

Shapes in names: B rows, N inputs, M outputs, G groups present in the batch, E width of emb(p).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.stages import Dense, Stage, StageModule
from ctrbench.nn.tables import RowTable


@dataclass(frozen=True, kw_only=True)
class Auxiliary(Stage):
    """The logit of STAR's auxiliary network: a small network that all domains share, but for emb(p) (spec: star-2.5).

    Its inputs are [emb(p) ; z] or [emb(p) ; e_d], not normalized. The unseen domain's emb(p) stays at zero.
    """

    hidden: int = 32
    embedding: int = 16
    """Width of emb(p)."""
    sees: Literal["all", "domain"] = "all"
    """z, or only e_d."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; its output starts at zero."""
        return AuxiliaryModule(self, num_inputs, build)


class AuxiliaryModule(StageModule):
    """Computes `Auxiliary`."""

    num_outputs = 1

    def __init__(self, stage: Auxiliary, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.sees = stage.sees
        rows = torch.zeros(build.schema.num_indicators + 1, stage.embedding)
        rows[1:].normal_(std=build.embedding_std, generator=build.generator(f"{stage.name}.embedding"))
        self.embedding = RowTable(rows, "domain")
        width = num_inputs if stage.sees == "all" else build.schema.domain_width
        hidden = Dense(name=f"{stage.name}.hidden", width=stage.hidden, activation="relu")
        output = Dense(name=f"{stage.name}.output", width=1)
        self.hidden = hidden.build(stage.embedding + width, build)
        self.output = output.build(stage.hidden, build)
        nn.init.zeros_(self.output.get_parameter("weight"))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, 1)."""
        own_GE, inputs_BN = context.read(self.embedding), x_BN if self.sees == "all" else context.domain_BE
        # [emb(p) ; z] W + b, whose part of emb(p) is computed once per domain.
        sizes = [own_GE.shape[1], inputs_BN.shape[1]]
        weight_EM, weight_NM = torch.split(self.hidden.get_parameter("weight"), sizes)
        own_GM = torch.addmm(self.hidden.get_parameter("bias"), own_GE, weight_EM)
        hidden_BM = torch.relu(inputs_BN @ weight_NM + context.routing.broadcast(own_GM))
        logit_B1: torch.Tensor = self.output(hidden_BM, context)
        return logit_B1
