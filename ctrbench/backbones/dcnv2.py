"""DCNv2: a cross network of explicit feature products beside (or under) the deep tower.

Paper: Wang et al., DCN V2, WWW 2021
Year: 2021

METHODS 5. `parallel`: a linear layer on [cross(z); deep(z)]; `stacked`: deep(cross(z)). Neither paper publishes the
structure used in the AdaSparse study; parallel with three full-rank layers is our default. Left out: the mixture of
low-rank experts (DCN-Mix) and the kernel's `diag_scale`.
"""

from __future__ import annotations

from typing import Literal

from ctrbench.extend import Backbone, Cross, Field, Plan


class Dcnv2(Backbone):
    """Cross network and tower."""

    layers: int = Field(default=3, ge=1)
    rank: int | None = Field(default=None, ge=1)
    """Rank of the cross kernels; None: full up to 1,024 inputs, a quarter of them above."""
    structure: Literal["parallel", "stacked"] = "parallel"

    def plan(self) -> Plan:
        """Return cross network, tower and head."""
        cross = Cross(name="cross", layers=self.layers, rank=self.rank)
        return Plan(interactions=(cross,), join=self.structure, tower=self.tower(), head=self.output())
