"""EPNet: a gate conditioned on the domain scales each number of the embedding layer.

Paper: Chang et al., PEPNet, KDD 2023
Year: 2023
Uses: e_d, and all embeddings without their gradient
Parameters per domain: none

    O = δ ⊙ E        δ = γ σ(ReLU(x A + a) A' + a')        x = [e_d ; sg(E)]

E is the whole input vector: embeddings, pooled lists, numeric fields and e_d itself. Everything behind the embeddings
reads O (spec: pepnet-7.4).

Plan: one stage at the input, before any stage of the backbone there.

Choices: A' and a' start at zero, so with γ = 2 EPNet starts as the backbone. A has as many columns as E unless
`gate_hidden` is set. The domain embedding of the paper is e_d, without statistics of the domain, and it also learns
through the gate; the rest of E learns through δ ⊙ E only.

Deviations: two parts are not gated. First-order weights, those of the wide part and of linear logits, are not part of
E; the auxiliary network (`aux`) reads E. Factorization machines and FinalMLP's second stream read O.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from ctrbench.extend import Choices, EmbeddingGate, Field, Method, Plan


class EPNet(Method):
    """A gate on the embedding layer."""

    gamma: float = Field(default=2.0, gt=0.0, allow_inf_nan=False)
    """Largest factor γ; factors start at half of it."""
    gate_hidden: Annotated[int | None, Choices(None, 32, 64)] = Field(default=None, ge=1, le=65_536)
    """Width of the gate's hidden layer; none: the width of the embedding layer."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the gate behind the embeddings."""
        gate = EmbeddingGate(name="epnet", gamma=self.gamma, hidden=self.gate_hidden)
        # First at the input, so that a backbone's own input stage, such as FinalMLP's feature gate, reads O.
        return replace(plan, at_input=(gate, *plan.at_input))

    @property
    def starts_as_backbone(self) -> float | None:
        """Return 0.0 for γ = 2, where σ(0) is a factor of one; no claim otherwise."""
        return 0.0 if self.gamma == 2.0 else None
