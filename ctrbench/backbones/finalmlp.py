"""FinalMLP: two towers that read the features through separate gates, and a bilinear fusion of their outputs.

Paper: Mao et al., FinalMLP, AAAI 2023
Year: 2023

    h_i = 2 σ(MLP_i(x_i)) ⊙ z,   o_i = tower_i(h_i),   i = 1, 2
    s = b + <w_1, o_1> + <w_2, o_2> + Σ_h o_{1,h}^T W_h o_{2,h},   o_{i,h}: part h of o_i

x_1 and x_2 are the fields of one role each, user and item by default. Where the data have no such field, or the role is
`none`, x_i is a learned vector, as the paper allows (spec: finalmlp-5.9).

Plan: stream 1 is the tower, which methods rewrite, with its gate at the input; stream 2 is an interaction of the same
widths; the head is the fusion and a dense layer.

Choices: the gates have one hidden layer of ReLU. Both streams have the same widths, and differ in initial weights and
gates; the paper tunes their widths separately. The fusion passes [o_2 ; o_1 ; the bilinear sum] to the dense head,
whose weight on the sum only rescales the W_h, so the model represents the same functions as the paper's and methods
find a head to rewrite. A method that replaces the whole head also replaces the fusion. The gate of stream 1 assumes a
tower of dense stages only; stream 2 reads the embeddings, scaled by a method's gate on them if there is one.

Not implemented: dropout and batch normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """Parts into which the fusion splits both outputs."""
    gating: bool = True
    """Whether the streams read the features through gates."""
    gate_hidden: int = Field(default=64, ge=1)
    """Width of the gates' hidden layer."""
    first_role: Role | None = "user"
    """Role of the fields that the gate of stream 1 reads; none: a learned vector."""
    second_role: Role | None = "item"
    """Role of the fields that the gate of stream 2 reads; none: a learned vector."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden[-1] % self.heads:
            raise ValueError("heads must divide the last hidden width")
        return self

    def idle(self) -> Iterator[str]:
        """Yield the settings of the gates where there are none."""
        yield from super().idle()
        if not self.gating:
            yield from ("gate_hidden", "first_role", "second_role")

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
