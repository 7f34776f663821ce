"""Separate: a whole model of its own for each domain, trained on that domain's rows alone.

Paper: none, the reference that shares nothing
Year: none

Conditions on: the indicator p
Grows with domains: the whole model, a backbone with its embeddings a domain

    s = backbone_p(x),   embeddings, interactions, tower, head and further logits all p's own

Each model learns as if it stood alone: its embeddings and weights move by its own rows' steps, with Adam's counts of
its own. METHODS 0.4: rows of an unseen domain run through the largest domain's model. Readings: all models start as
the backbone does, the output's bias at the click rate of all training rows; batches are of one domain each, however few
its rows (METHODS 2.3 would merge remainders below 32 rows and weigh them less), so that each model trains as if on its
rows alone; or mixed, where each has a step in most batches, of fewer rows (the mean is over all rows of the batch); one
early stopping for all, by the dev AUC of all rows, as for every method. `aux` and `norm=pn` are refused: a model that
sees one domain has no use for them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

import numpy as np

from ctrbench.extend import Field, Learner, Method, Order, Plan, SplitData, domain_order, model_validator


class Separate(Method):
    """A copy of the plan for each value of the indicator."""

    indexed_by = "indicator"

    batching: Literal["domain", "mixed"] = "domain"
    """Batches of one domain each, or mixed ones."""
    max_domains: int = Field(default=64, ge=1)
    """More values of the indicator are refused: memory and files grow by a whole model each."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.aux or self.norm == "pn":
            raise ValueError(
                "aux and norm=pn keep something for each domain, and a model here sees one; use norm=bn"
            )
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan, to be built once a domain."""
        return replace(plan, separate=self.max_domains)

    def learner(self) -> Learner:
        """Return ordinary training on the batches asked for."""
        return Learner() if self.batching == "mixed" else OneModelEach()

    @property
    def starts_as_backbone(self) -> float:
        """Up to rounding, which depends on how many rows run together."""
        return 1e-5


class OneModelEach(Learner):
    """Ordinary training on batches of one domain each, all of full weight."""

    def __init__(self) -> None:
        super().__init__(batching="domain")

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Return each domain's rows in blocks of its own, the blocks shuffled over domains."""
        groups_B = train.indicator_B.cpu().numpy()
        return replace(domain_order(groups_B, batch_size, generator, smallest=1), nominal=None)
