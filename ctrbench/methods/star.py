"""STAR: each domain's weights are shared weights times its own, behind normalisation with its own moments.

Paper: Sheng et al., STAR, CIKM 2021
Year: 2021

Conditions on: the indicator p
Grows with domains: W_p and b_p of tower and head, γ_p and β_p with the moments, emb(p)

METHODS 2. At every dense stage of tower and head, W_p* = W ⊙ W_p and b_p* = b + b_p; partitioned normalisation (PN)
before the tower; a two-layer network of [emb(p) ; z], or [emb(p) ; e_d], added to the logit. Batches are of one
domain each, or mixed, with segment moments.

Readings: W_p = 1, b_p = 0 and the auxiliary output zero at the start, so STAR starts as the backbone with batch
normalisation (2.4); η, ε and the shrinkage of rare domains' moments (2.2). The unseen domain has shared parameters
only: its W_p, b_p, γ_p, β_p stay at the start and its emb(p) at zero (0.4). Departures: PN normalises what the tower
is given, not the input of a cross network beside it (5.3); rare domains' running moments pool rows (`PartitionedNorm`).

Normalising the embeddings before the tower costs plain as much as it costs STAR on MovieLens-1M:
`plain[norm=bn,aux=all]` reaches AUC 0.7353 and STAR 0.7349 where plain has 0.7408 (one seed, docs/reports/controls.md).

For comparison (2.4, 11.2): with `start=double` W and W_p are both drawn at random, as in public code. Their product is
then of next to no size in wide layers; `layer_norm`, without which such towers hardly pass a signal on, normalises each
row behind every hidden layer. Neither starts as the backbone, and the unseen domain, whose W_p stays at one, gets
W ⊙ 1, of another size than any product that was trained. `norm=bn` needs `batching=mixed`: running moments are those of
all rows.
"""

from __future__ import annotations

from typing import Literal, Self

from ctrbench.extend import (
    Auxiliary,
    Dense,
    Field,
    LayerNorm,
    Learner,
    Method,
    PartitionedNorm,
    Plan,
    Stage,
    StarDense,
    later,
    model_validator,
)


class Star(Method):
    """Star-topology dense stages, partitioned normalisation and an auxiliary network."""

    indexed_by = "indicator"

    norm: Literal["bn", "ln", "pn"] | None = "pn"
    """Normalisation before the tower: partitioned, or for comparison by (mixed) batch, by row, or none."""
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
    start: Literal["one", "double"] = later("one")
    """W_p starts at one, or, `double`, at random as W does."""
    layer_norm: bool = later(False)
    """Normalise each row behind every hidden layer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        of_norm = () if self.norm == "pn" else ("momentum", "eps", "shrinkage")
        of_aux = () if self.aux else ("aux_hidden", "aux_embedding")
        if self.norm == "bn" and self.batching == "domain":
            raise ValueError(
                "norm=bn with batching=domain: moments of a batch of one domain are not those of all, which score; "
                "take batching=mixed"
            )
        for name in (*of_norm, *of_aux):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with these settings; leave it out")
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with star products."""
        plan = plan.map_dense(self._star)
        return plan.after_dense(_layer_norm) if self.layer_norm else plan

    def _star(self, dense: Dense) -> Dense:
        return StarDense(
            name=dense.name,
            width=dense.width,
            activation=dense.activation,
            is_double=self.start == "double",
        )

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
    def starts_as_backbone(self) -> float | None:
        """Up to rounding: with W_p = 1 and b_p = 0, W ⊙ W_p is W."""
        return None if self.start == "double" or self.layer_norm else 1e-5


def _layer_norm(dense: Dense) -> Stage:
    return LayerNorm(name=f"{dense.name}.norm")
