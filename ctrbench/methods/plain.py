"""Plain: the unchanged backbone, one model for all domains.

Paper: none, the reference for all methods
Year: none
Uses: the domain features, as ordinary inputs
Parameters per domain: none

The domain features are inputs like any others, so the model learns the click level of each domain. Nothing else
distinguishes domains (spec: plain-13.1).

Plan: unchanged.
"""

from __future__ import annotations

from ctrbench.extend import Method, Plan


class Plain(Method):
    """The backbone without an edit."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan unchanged."""
        return plan

    @property
    def starts_as_backbone(self) -> float:
        """Return 0.0: initial logits equal the backbone's."""
        return 0.0
