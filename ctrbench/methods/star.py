"""STAR: each domain's weights are shared weights times its own, behind normalization with its own moments.

Paper: Sheng et al., STAR, CIKM 2021
Year: 2021
Uses: the indicator p
Parameters per domain: W_p and b_p of tower and head, γ_p and β_p of the normalization with its moments, a row emb(p)

    W_p* = W ⊙ W_p        b_p* = b + b_p        at every dense stage of tower and head

Partitioned normalization (PN) stands before the tower. A two-layer network of [emb(p) ; z], or of [emb(p) ; e_d], adds
a logit. Batches hold one domain each, or are mixed, with moments per domain (spec: star-2.1).

Plan: replaces each dense stage of tower and head, puts a normalization before the tower, adds a logit.

Choices: W_p = 1, b_p = 0 and a zero auxiliary output at the start, so STAR starts as the backbone with batch
normalization (spec: star-2.4). For η, ε and the shrinkage of moments of rare domains see spec: star-2.2. The unseen
domain has the shared parameters only: its W_p, b_p, γ_p and β_p keep their initial values and its emb(p) is zero
(spec: conventions-0.4).

Deviations: PN normalizes the tower's input, not the input of a cross network beside it (spec: dcnv2-5.3). Running
moments of rare domains are pooled over rows (`PartitionedNorm`).

Limits: normalizing the embeddings before the tower costs plain as much as it costs STAR on MovieLens-1M:
`plain[norm=bn,aux=all]` reaches AUC 0.7353 and STAR 0.7349 where plain has 0.7408 (one seed, docs/reports/controls.md).

Variants: for comparison (spec: star-2.4 and comparison-11.2), with `start=double` W and W_p both start at random
values, as in public code. In wide layers their product is close to zero, and such towers pass a signal on only with
`layer_norm`, which normalizes each row after every hidden layer. Neither starts as the backbone. The unseen domain,
whose W_p stays at one, then has weights W ⊙ 1 of another scale than any trained product. `norm=bn` needs
`batching=mixed`, since its running moments are those of all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from ctrbench.extend import (
    Auxiliary,
    Choices,
    Dense,
    Field,
    LayerNorm,
    Learner,
    Method,
    PartitionedNorm,
    Plan,
    Stage,
    StarDense,
    added_field,
    model_validator,
)


class Star(Method):
    """Star-topology dense stages, partitioned normalization and an auxiliary network."""

    indexed_by = "indicator"

    norm: Annotated[Literal["bn", "ln", "pn"] | None, Choices("pn", "bn", "ln", None)] = "pn"
    """Normalization before the tower: partitioned (`pn`), or for comparison per batch, per row or none."""
    batching: Annotated[Literal["domain", "mixed"], Choices("domain", "mixed")] = "domain"
    """Whether a batch holds rows of one domain or of all."""
    aux: Annotated[Literal["all", "domain"] | None, Choices("all", "domain", None)] = "all"
    """Input of the auxiliary network beside emb(p): all embeddings or e_d; none: no auxiliary network."""
    aux_hidden: int = Field(default=32, ge=1, le=65_536)
    """Width of the auxiliary network's hidden layer."""
    aux_embedding: int = Field(default=16, ge=1, le=65_536)
    """Width of emb(p)."""
    momentum: float = Field(default=0.01, gt=0.0, le=1.0)
    """η, the smallest weight of a batch's moments in the running moments."""
    eps: float = Field(default=1e-5, gt=0.0)
    """ε, added to the variance."""
    shrinkage: float = Field(default=1000.0, gt=0.0)
    """κ, the number of rows of all domains with which a domain's running moments are mixed."""
    start: Annotated[Literal["one", "double"], Choices("one", "double")] = added_field("one")
    """Initial W_p: one, or random like W (`double`)."""
    layer_norm: bool = added_field(False)
    """Whether each row is normalized after every hidden layer."""

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if self.norm == "bn" and self.batching == "domain":
            raise ValueError(
                "norm=bn with batching=domain would train with moments of one domain and score with those of all; "
                "set batching=mixed"
            )
        if self.tower_norm == "batch" and self.batching == "domain":
            raise ValueError(
                "tower_norm=batch with batching=domain would train with moments of one domain and score with those of "
                "all; set batching=mixed or tower_norm=layer"
            )
        return self

    def idle(self) -> Iterator[str]:
        """Yield the settings of a normalization and an auxiliary network that the model does not have."""
        if self.norm != "pn":
            yield from ("momentum", "eps", "shrinkage")
        if not self.aux:
            yield from ("aux_hidden", "aux_embedding")

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with star products."""
        plan = plan.map_dense(self._star_stage)
        return plan.after_dense(_layer_norm) if self.layer_norm else plan

    def _star_stage(self, dense: Dense) -> Dense:
        return StarDense.like(dense, is_double=self.start == "double")

    def norm_stage(self) -> Stage | None:
        """Return PN with the method's settings, or another normalization."""
        if self.norm != "pn":
            return super().norm_stage()
        return PartitionedNorm(name="star_pn", momentum=self.momentum, eps=self.eps, shrinkage=self.shrinkage)

    def aux_stage(self) -> Stage | None:
        """Return the auxiliary network, or None without one."""
        if self.aux is None:
            return None
        return Auxiliary(name="star_aux", hidden=self.aux_hidden, embedding=self.aux_embedding, sees=self.aux)

    def learner(self) -> Learner:
        """Return ordinary training on batches of one domain or mixed ones."""
        return Learner(batching=self.batching)

    @property
    def starts_as_backbone(self) -> float | None:
        """Return 1e-5: with W_p = 1 and b_p = 0, W ⊙ W_p is W up to rounding; no claim for other starts."""
        return None if self.start == "double" or self.layer_norm else 1e-5


def _layer_norm(dense: Dense) -> Stage:
    return LayerNorm(name=f"{dense.name}.norm")
