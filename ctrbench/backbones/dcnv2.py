"""DCNv2: a cross network of explicit feature products beside (or under) the deep tower.

Paper: Wang et al., DCN V2, WWW 2021
Year: 2021

METHODS 5. `parallel`: a linear layer on [cross(z); deep(z)]; `stacked`: deep(cross(z)). Neither paper publishes the
structure used in the AdaSparse study; parallel with three full-rank layers is our default. With `experts` the cross
layers are DCN-Mix's mixtures of low-rank experts; `diag_scale` adds a multiple of the identity to the kernels.

Readings: a gate of its own for each layer of DCN-Mix; rank a quarter of the inputs there unless set.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from ctrbench.extend import (
    Backbone,
    Cross,
    CrossMix,
    Field,
    Plan,
    ScaledCross,
    Stage,
    later,
    model_validator,
)


class Dcnv2(Backbone):
    """Cross network and tower."""

    layers: int = Field(default=3, ge=1)
    rank: int | None = Field(default=None, ge=1)
    """Rank of the cross kernels; None: full up to 1,024 inputs, a quarter of them above and with experts."""
    structure: Literal["parallel", "stacked"] = "parallel"
    experts: Annotated[int, Field(ge=2)] | None = later(None)
    """Low-rank experts of each cross layer; None: one linear kernel."""
    diag_scale: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = later(0.0)
    """Multiple of the identity that is added to each kernel."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.experts and self.diag_scale:
            raise ValueError("diag_scale has no effect with these settings; leave it out")
        return self

    def plan(self) -> Plan:
        """Return cross network, tower and head."""
        cross = self._cross()
        return Plan(interactions=(cross,), join=self.structure, tower=self.tower(), head=self.output())

    def _cross(self) -> Stage:
        if self.experts:
            return CrossMix(name="cross", layers=self.layers, rank=self.rank, experts=self.experts)
        if self.diag_scale:
            return ScaledCross(name="cross", layers=self.layers, rank=self.rank, diag_scale=self.diag_scale)
        return Cross(name="cross", layers=self.layers, rank=self.rank)
