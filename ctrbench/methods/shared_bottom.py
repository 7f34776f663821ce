"""Shared Bottom: the domains share the embeddings alone; each has a tower and an output of its own.

Paper: the baseline of Sheng et al., STAR, CIKM 2021
Year: 2021
Conditions on: the indicator p
Grows with domains: a tower and a head a domain

METHODS 6.2. Every dense stage of tower and head is φ(h W_p + b_p), and a row meets its own domain's only.
What of a backbone is no dense stage stays shared: embeddings, interactions, first-order weights.

Readings: all domains start at the backbone's weights, so it starts as the backbone; an unseen domain takes
the tower of the largest (0.4), and training rows have none, since domain features keep every value.
Departures: none. Left out: a bottom of dense layers that all domains share, which public code has and the
study has not; it is a different model.
"""

from __future__ import annotations

from ctrbench.extend import Dense, DomainDense, Method, Plan


class SharedBottom(Method):
    """A tower and a head for each domain."""

    indexed_by = "indicator"

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with dense stages of the domains' own."""
        return plan.map_dense(DomainDense.like)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without a tower."""
        has_tower = any(isinstance(stage, Dense) for stage in plan.tower)
        return None if has_tower else "each domain gets a tower of its own, and this plan has none"

    @property
    def starts_as_backbone(self) -> float:
        """Up to rounding: the same weights in differently shaped products."""
        return 1e-5
