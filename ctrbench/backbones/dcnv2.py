"""DCNv2: a cross network of explicit feature products beside or below the deep tower.

Paper: Wang et al., DCN V2, WWW 2021
Year: 2021

    x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l

`parallel` is a linear layer on [cross(z) ; tower(z)], `stacked` is tower(cross(z)) (spec: dcnv2-5.1). With `experts`
the cross layers are DCN-Mix's mixtures of low-rank experts; `diag_scale` adds a multiple of the identity to the
kernels.

Plan: the cross network as an interaction, tower and head.

Choices: neither paper publishes the structure used in the AdaSparse study; the default is parallel with three full-rank
layers. Each layer of DCN-Mix has its own gate and, unless `rank` is set, a rank of a quarter of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from ctrbench.extend import (
    Backbone,
    Cross,
    CrossMix,
    Field,
    Plan,
    ScaledCross,
    Stage,
    later,
)


class Dcnv2(Backbone):
    """Cross network and tower."""

    layers: int = Field(default=3, ge=1)
    """Number of cross layers."""
    rank: int | None = Field(default=None, ge=1)
    """Rank of the cross kernels; none: full up to 1,024 inputs, a quarter of the inputs above and with experts."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the cross network stands beside the tower or below it."""
    experts: Annotated[int, Field(ge=2)] | None = later(None)
    """Low-rank experts per cross layer; none: one linear kernel."""
    diag_scale: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = later(0.0)
    """Multiple of the identity added to each kernel."""

    def idle(self) -> Iterator[str]:
        """Yield `diag_scale` where the cross layers have experts."""
        yield from super().idle()
        if self.experts:
            yield "diag_scale"

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
