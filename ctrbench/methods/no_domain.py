"""No domain: one model for all domains that does not see the domain features.

Paper: none, the reference that shows what the domain features are worth as inputs
Year: none

Conditions on: nothing
Grows with domains: nothing

The domain features are taken out of z, so the backbone has no embeddings of them and its first layers are narrower;
all else is the backbone as it is. METHODS has no section on it. Readings: `norm=pn` and `aux` are refused, as they are
given the domain even where z is not. What other fields tell of the domain stays: a city, say, tells the country.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from ctrbench.extend import Method, Plan, model_validator


class NoDomain(Method):
    """The plan without the embeddings of the domain features."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.aux == "domain":
            raise ValueError("aux=domain is made of e_d, which this model does not see; leave it out")
        if self.aux or self.norm == "pn":
            raise ValueError("aux and norm=pn would tell the model its domain; leave them out")
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the domain features hidden."""
        return replace(plan, hides_domain=True)
