"""PEPNet: EPNet's gate on the embedding layer and PPNet's gates before the dense layers.

Paper: Chang et al., PEPNet, KDD 2023
Year: 2023
Uses: e_d, embeddings of ids, and all embeddings without their gradient
Parameters per domain: none

    O = Gate([e_d ; sg(E)]) ⊙ E        h^1 = O        h^{l+1} = φ((Gate_l([prior ; sg(O)]) ⊙ h^l) W^l + b^l)

E is the input vector, and Gate(x) = γ σ(ReLU(x A + a) A' + a') with separate weights per gate (spec: pepnet-7.4).

Plan: one stage at the input and one before each dense stage of tower and head.

Choices: those of `epnet` and `ppnet`. The prior consists of embeddings before EPNet's gate, sg(O) of those behind it.

Deviations: those of `epnet`; first-order weights and the auxiliary network (`aux`) are not gated.

Not implemented: towers of several tasks; there is one task.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from ctrbench.extend import Choices, Dense, EmbeddingGate, Field, Method, Plan, PriorGate


class PEPNet(Method):
    """Gates on the embedding layer and before dense layers."""

    ppnet_prior: Annotated[Literal["ids", "domain"], Choices("ids", "domain")] = "ids"
    """Input of the gates of dense layers: embeddings of ids, as in the paper, or e_d."""
    gamma: float = Field(default=2.0, gt=0.0, allow_inf_nan=False)
    """Largest factor γ of all gates; factors start at half of it."""
    gate_hidden: Annotated[int | None, Choices(None, 32, 64)] = Field(default=None, ge=1, le=65_536)
    """Width of each gate's hidden layer; none: the width of the gated input."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a gate behind the embeddings and one before each dense stage."""
        gamma, hidden = self.gamma, self.gate_hidden

        def gate(dense: Dense) -> PriorGate:
            return PriorGate(name=f"{dense.name}.ppnet", prior=self.ppnet_prior, gamma=gamma, hidden=hidden)

        epnet = EmbeddingGate(name="epnet", gamma=gamma, hidden=hidden)
        # First at the input, so that a backbone's own input stage, such as FinalMLP's feature gate, reads O.
        return replace(plan, at_input=(epnet, *plan.at_input)).before_dense(gate)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without dense stages, on which the method equals EPNet."""
        return (
            None if plan.has_dense else "PPNet's gates need dense layers, and this plan has none; use epnet"
        )

    @property
    def starts_as_backbone(self) -> float | None:
        """Return 0.0 for γ = 2, where σ(0) is a factor of one; no claim otherwise."""
        return 0.0 if self.gamma == 2.0 else None
