"""AutoInt: layers of multi-head self-attention over the fields, beside (or under) the deep tower.

Paper: Song et al., AutoInt, CIKM 2019
Year: 2019

Of each head, over the fields e_1 … e_F of a row, plain numbers among them as v_k x_k with v_k learned:

    α_mk = softmax_k <W_Q e_m, W_K e_k>,   e'_m = Σ_k α_mk W_V e_k
    e_m ← ReLU([e'_m of each head] + W_R e_m)

`parallel` is the paper's AutoInt+, a linear layer on [all e_m of the last layer ; tower(z)]; `stacked` is
tower(all e_m). The inner product is not scaled, as in the paper's equation 5.

Readings: heads of 8 rather than the paper's 32, so that with two of them fields keep 16 numbers. Left out: AutoInt
without a tower, since methods act on its dense stages; dropout.
"""

from __future__ import annotations

from typing import Literal

from ctrbench.extend import Backbone, Field, FieldAttention, Plan


class AutoInt(Backbone):
    """Self-attention over fields, and tower."""

    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=2, ge=1)
    head_size: int = Field(default=8, ge=1)
    """Width of each head; a field leaves a layer with heads times as many numbers."""
    structure: Literal["parallel", "stacked"] = "parallel"

    def plan(self) -> Plan:
        """Return interacting layers, tower and head."""
        attention = FieldAttention(
            name="attention", layers=self.layers, heads=self.heads, head_size=self.head_size
        )
        return Plan(interactions=(attention,), join=self.structure, tower=self.tower(), head=self.output())
