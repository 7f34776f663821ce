"""Plain: the backbone as it is, one model for all domains.

Paper: none, the reference that every method is measured against
Year: none

Conditions on: nothing; the domain features are inputs among others
Grows with domains: nothing

Domain features are ordinary inputs, so levels of domains are learned; nothing else is particular to a domain.
"""

from __future__ import annotations

from ctrbench.extend import Method, Plan


class Plain(Method):
    """No edit at all."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan unchanged."""
        return plan

    @property
    def starts_as_backbone(self) -> float:
        """Exactly."""
        return 0.0
