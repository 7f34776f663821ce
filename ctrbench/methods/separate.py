"""Separate: one model per domain, each trained on the rows of its domain only.

Paper: none, the reference that shares nothing
Year: none
Uses: the indicator p
Parameters per domain: the whole model, embeddings included

    s = backbone_p(x)        embeddings, interactions, tower, head and further logits all belong to p

Each model trains as if it were alone: only steps on its own rows move its embeddings and weights, and Adam counts its
steps separately (spec: separate-13.4). A row of an unseen domain runs through the model of the largest domain
(spec: conventions-0.4).

Plan: built once per value of the indicator.

Choices: all models start as the backbone, with the output bias at the click rate of all training rows. Batches hold one
domain each; remainders below 32 rows are not merged (unlike spec: star-2.3), so that each model trains on its own rows
only. With `batching=mixed` each model makes a step on most batches, on fewer rows, since the mean is over all rows of
the batch. Early stopping is common to all models and uses the dev AUC over all rows, as for every method. `aux` and
`norm=pn` are refused: a model that reads one domain has no use for them.

Limits: memory, file sizes and checkpoints grow by a whole model per domain; `max_domains` bounds them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

import numpy as np

from ctrbench.extend import (
    Choices,
    Field,
    Learner,
    Method,
    Order,
    Plan,
    SplitData,
    domain_order,
    model_validator,
)


class Separate(Method):
    """One model per value of the indicator."""

    indexed_by = "indicator"

    batching: Annotated[Literal["domain", "mixed"], Choices("domain", "mixed")] = "domain"
    """Whether a batch holds rows of one domain or of all."""
    max_domains: int = Field(default=64, ge=1, le=65_536)
    """Largest number of indicator values; memory and files grow by a whole model per value."""

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if self.aux or self.norm == "pn":
            raise ValueError(
                "aux and norm=pn hold parameters per domain, and each model here has one domain; use norm=bn"
            )
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan, marked to be built once per domain."""
        return replace(plan, separate=self.max_domains)

    def learner(self) -> Learner:
        """Return ordinary training on batches of one domain or mixed ones."""
        return Learner() if self.batching == "mixed" else SeparateLearner()

    @property
    def starts_as_backbone(self) -> float:
        """Return 1e-5: rounding depends on the number of rows per product."""
        return 1e-5


class SeparateLearner(Learner):
    """Ordinary training on batches of one domain each, all with full weight."""

    def __init__(self) -> None:
        super().__init__(batching="domain")

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Return blocks of rows of one domain each, shuffled across domains."""
        groups_B = train.indicator_B.cpu().numpy()
        return replace(domain_order(groups_B, batch_size, generator, smallest=1), nominal=None)
