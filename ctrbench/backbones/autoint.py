"""AutoInt: layers of multi-head self-attention over the fields, beside or below the deep tower.

Paper: Song et al., AutoInt, CIKM 2019
Year: 2019

Per head, over the fields e_1 … e_F of a row, with v_k x_k and a learned v_k for a numeric field (spec: autoint-5.7):

    α_mk = softmax_k <W_Q e_m, W_K e_k>,   e'_m = Σ_k α_mk W_V e_k
    e_m ← ReLU([e'_m of each head] + W_R e_m)

`parallel` is the paper's AutoInt+, a linear layer on [all e_m of the last layer ; tower(z)]; `stacked` is tower(all
e_m). The inner product is not scaled, as in equation 5 of the paper.

Plan: the attention layers as an interaction, tower and head.

Choices: heads have 8 numbers, not the paper's 32, so that a field keeps 16 numbers with two heads.

Not implemented: AutoInt without a tower, since methods rewrite dense stages; dropout.
"""

from __future__ import annotations

from typing import Literal

from ctrbench.extend import Backbone, Field, FieldAttention, Plan


class AutoInt(Backbone):
    """Self-attention over fields, and tower."""

    layers: int = Field(default=3, ge=1)
    """Number of attention layers."""
    heads: int = Field(default=2, ge=1)
    """Heads per layer."""
    head_size: int = Field(default=8, ge=1)
    """Width of a head; a layer's output has heads x head_size numbers per field."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the attention stands beside the tower or below it."""

    def plan(self) -> Plan:
        """Return attention layers, tower and head."""
        attention = FieldAttention(
            name="attention", layers=self.layers, heads=self.heads, head_size=self.head_size
        )
        return Plan(interactions=(attention,), join=self.structure, tower=self.tower(), head=self.output())
