"""Shared Bottom: a tower and a head per domain on shared embeddings.

Paper: the baseline of Sheng et al., STAR, CIKM 2021
Year: 2021
Uses: the indicator p
Parameters per domain: one tower and one head

    h ← φ(h W_p + b_p)        at every dense stage of tower and head

Embeddings, interactions and first-order weights are shared (spec: shared-bottom-6.3).

Plan: replaces each dense stage of tower and head.

Choices: the towers of all domains start with the backbone's weights, so the model starts as its backbone. A row of an
unseen domain uses the tower of the largest domain (spec: conventions-0.4); training rows are never of an unseen domain.

Not implemented: dense layers that all domains share below the towers, as in some public code; the study has none.
"""

from __future__ import annotations

from ctrbench.extend import DomainDense, Method, Plan, dense_stages


class SharedBottom(Method):
    """A tower and a head per domain."""

    indexed_by = "indicator"

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with one copy of each dense stage per domain."""
        return plan.map_dense(DomainDense.like)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without a tower."""
        has_tower = dense_stages(plan.tower)
        return None if has_tower else "each domain has its own tower, and this plan has none"

    @property
    def starts_as_backbone(self) -> float:
        """Return 1e-5: equal weights in products of other shapes."""
        return 1e-5
