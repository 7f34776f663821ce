"""FinalMLP: two towers that see the features through gates of their own, and a bilinear fusion of what they say.

Paper: Mao et al., FinalMLP, AAAI 2023
Year: 2023

    h_i = 2 σ(MLP_i(x_i)) ⊙ z,   o_i = tower_i(h_i),   i = 1, 2
    s = b + <w_1, o_1> + <w_2, o_2> + Σ_h o_{1,h}^T W_h o_{2,h},   o_{i,h}: part h of o_i

x_1 and x_2 are the features of a role each, user and item by default, or, where the data have none or none is asked
for, a learned vector, as the paper allows. Stream 1 is the plan's tower, which methods rewrite; stream 2, an
interaction beside it, has the same widths and stays as it is.

Readings: one hidden layer of ReLU in the gates; both streams alike but for start and gate, the paper tunes their widths
apart. The fusion hands [o_2 ; o_1 ; the bilinear sum] to a dense head, whose weight on the sum only rescales the W_h,
so the functions are the paper's and methods find a head to rewrite; one that replaces the whole head replaces the
fusion with it. The gate of stream 1 stands at the input, for a tower of dense stages alone; stream 2 reads the
embeddings, weighed by a method's gate on them, if there is one. Left out: dropout and batch normalisation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

from ctrbench.extend import (
    AsEmbedded,
    Backbone,
    BilinearFusion,
    Branch,
    FeatureGate,
    Field,
    Plan,
    Stage,
    model_validator,
)

Role = Literal["user", "item", "context", "shop", "ad", "query", "other"]


class FinalMlp(Backbone):
    """Two gated streams and their fusion."""

    heads: int = Field(default=2, ge=1)
    """Parts that the fusion cuts both outputs into."""
    gating: bool = True
    """Whether the streams see the features through gates."""
    gate_hidden: int = Field(default=64, ge=1)
    """Width of the gates' hidden layer."""
    first_role: Role | None = "user"
    """Role of the features that gate stream 1; none: a learned vector."""
    second_role: Role | None = "item"
    """Role of the features that gate stream 2; none: a learned vector."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden[-1] % self.heads:
            raise ValueError("heads must divide the last of the hidden widths")
        for name in () if self.gating else ("gate_hidden", "first_role", "second_role"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with these settings; leave it out")
        return self

    def plan(self) -> Plan:
        """Return both streams, fusion and head."""
        tower = tuple(replace(dense, name=f"second.{dense.name}") for dense in self.tower())
        fusion = BilinearFusion(name="fusion", width=self.hidden[-1], heads=self.heads)
        return Plan(
            at_input=(self._gate("gate1", self.first_role),) if self.gating else (),
            interactions=(Branch(name="second", stages=(*self._second_input(), *tower)),),
            tower=self.tower(),
            head=(fusion, *self.output()),
        )

    def _second_input(self) -> tuple[Stage, ...]:
        if not self.gating:
            return ()
        return AsEmbedded(name="second.input"), self._gate("gate2", self.second_role)

    def _gate(self, name: str, role: Role | None) -> FeatureGate:
        return FeatureGate(name=name, role=role, hidden=self.gate_hidden)
