"""STAR: each domain's weights are shared weights times its own, behind normalisation with its own moments.

Paper: Sheng et al., STAR, CIKM 2021
Year: 2021

METHODS 2. At every dense stage of tower and head, W_p* = W ⊙ W_p and b_p* = b + b_p; partitioned normalisation (PN)
before the tower; a two-layer network of [emb(p) ; z], or [emb(p) ; e_d], added to the logit. Batches are of one
domain each, or mixed, with segment moments.

Readings: W_p = 1, b_p = 0 and the auxiliary output zero at the start, so STAR starts as the backbone with batch
normalisation (2.4); η, ε and the shrinkage of rare domains' moments (2.2). The unseen domain has shared parameters
only: its W_p, b_p, γ_p, β_p stay at the start and its emb(p) at zero (0.4). Departures: PN normalises what the tower
is given, not the input of a cross network beside it (5.3); rare domains' running moments pool rows (`PartitionedNorm`).
Not here yet: double random starts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, Self

import torch
from torch import nn

from ctrbench.extend import (
    Auxiliary,
    Build,
    Context,
    Dense,
    Field,
    Learner,
    Method,
    PartitionedNorm,
    Plan,
    Stage,
    StageModule,
    activate,
    domain_table,
    model_validator,
    start_weight,
)


class Star(Method):
    """Star-topology dense stages, partitioned normalisation and an auxiliary network."""

    norm: Literal["bn", "ln", "pn"] | None = "pn"
    """Normalisation before the tower: partitioned, or for comparison by batch, by row, or none."""
    batching: Literal["domain", "mixed"] = "domain"
    """Batches of one domain each, or mixed ones."""
    aux: Literal["all", "domain"] | None = "all"
    """What the auxiliary network sees beside emb(p), all embeddings or e_d; none leaves the network out."""
    aux_hidden: int = Field(default=32, ge=1)
    aux_embedding: int = Field(default=16, ge=1)
    """Width of emb(p)."""
    momentum: float = Field(default=0.01, gt=0.0, le=1.0)
    """Least weight η of a batch's moments in the running ones."""
    eps: float = Field(default=1e-5, gt=0.0)
    shrinkage: float = Field(default=1000.0, gt=0.0)
    """Rows κ of the whole that a domain's running moments are mixed with."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        of_norm = () if self.norm == "pn" else ("momentum", "eps", "shrinkage")
        of_aux = () if self.aux else ("aux_hidden", "aux_embedding")
        for name in (*of_norm, *of_aux):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with these settings; leave it out")
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with star products."""
        return plan.map_dense(_star)

    def norm_stage(self) -> Stage | None:
        """Return PN with the settings; other normalisations have none."""
        if self.norm != "pn":
            return super().norm_stage()
        return PartitionedNorm(name="star_pn", momentum=self.momentum, eps=self.eps, shrinkage=self.shrinkage)

    def aux_stage(self) -> Stage | None:
        """Return the auxiliary network."""
        if self.aux is None:
            return None
        return Auxiliary(name="star_aux", hidden=self.aux_hidden, embedding=self.aux_embedding, sees=self.aux)

    def learner(self) -> Learner:
        """Return ordinary training on the batches asked for."""
        return Learner(batching=self.batching)

    @property
    def starts_as_backbone(self) -> float:
        """Up to rounding: with W_p = 1 and b_p = 0, W ⊙ W_p is W."""
        return 1e-5


def _star(dense: Dense) -> Dense:
    return StarDense(**{field.name: getattr(dense, field.name) for field in fields(dense)})


@dataclass(frozen=True, kw_only=True)
class StarDense(Dense):
    """φ(x (W ⊙ W_p) + b + b_p); W starts as the dense stage's of the same name."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; W_p = 1, b_p = 0."""
        return StarDenseModule(self, num_inputs, build)


class StarDenseModule(StageModule):
    """Computes `StarDense`; a row meets its own domain's matrix only."""

    def __init__(self, stage: StarDense, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.activation = stage.width, stage.activation
        generator = build.generator(f"{stage.name}.weight")
        self.weight = nn.Parameter(start_weight(num_inputs, stage.width, stage.activation, generator))
        self.bias = nn.Parameter(torch.zeros(stage.width))
        # One table for both, the bias as the last row: a table costs a gather and a scatter a step.
        start = torch.cat([torch.ones(num_inputs, stage.width), torch.zeros(1, stage.width)])
        self.domain = domain_table(build.schema.num_indicators, start)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        weight_GNM, bias_G1M = torch.split(context.read(self.domain), [len(self.weight), 1], dim=1)
        routing, bias_GM = context.routing, self.bias + bias_G1M[:, 0]
        bias_BM = bias_GM if routing.num_groups == 1 else bias_GM.index_select(0, routing.index_B)
        return activate(routing.linear(x_BN, self.weight * weight_GNM) + bias_BM, self.activation)
