"""No domain: one model for all domains, without the domain features as inputs.

Paper: none, the reference that shows the value of the domain features
Year: none
Uses: none
Parameters per domain: none

The embeddings of the domain features are removed from the input vector z; the first layers are narrower by as much
(spec: no-domain-13.2).

Plan: the domain features are hidden; all stages stay.

Choices: `norm=pn` and `aux` are refused, since both read the domain even where z does not hold it.

Limits: other fields may still reveal the domain, as a city reveals its country.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from ctrbench.extend import Method, Plan, model_validator


class NoDomain(Method):
    """The plan without the embeddings of the domain features."""

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if self.aux == "domain":
            raise ValueError("aux=domain reads e_d, which this model does not have; leave it out")
        if self.aux or self.norm == "pn":
            raise ValueError(
                "aux and norm=pn read the domain, which this model must not know; leave them out"
            )
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the domain features hidden."""
        return replace(plan, hides_domain=True)
