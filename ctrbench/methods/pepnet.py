"""PEPNet: EPNet's gate on the embedding layer, then PPNet's gates before the dense layers.

Paper: Chang et al., PEPNet, KDD 2023
Year: 2023
Conditions on: e_d and embeddings of ids; and all embeddings with their gradient stopped
Grows with domains: nothing

METHODS 7.4. E the embeddings, Gate(x) = γ σ(ReLU(x A + a) A' + a'), each gate with weights of its own:

    O = Gate([e_d ; sg(E)]) ⊙ E,  h^1 = O,  h^{l+1} = φ((Gate_l([prior ; sg(O)]) ⊙ h^l) W^l + b^l)

Readings: those of `epnet` and `ppnet`; the prior is of the embeddings E, before EPNet's gate, and sg(O) behind it.
Departures: `epnet`'s: first-order weights and the auxiliary network (`aux`) stay ungated. Left out: the towers of
several tasks, of which there is one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ctrbench.extend import Dense, EmbeddingGate, Field, Method, Plan, PriorGate


class PEPNet(Method):
    """Both kinds of gates."""

    ppnet_prior: Literal["ids", "domain"] = "ids"
    """What drives the gates of dense layers: embeddings of ids, as in the paper, or e_d."""
    gamma: float = Field(default=2.0, gt=0.0, allow_inf_nan=False)
    """Largest factor γ of all gates; at the start each factor is half of it."""
    gate_hidden: int | None = Field(default=None, ge=1)
    """Width of each gate's hidden layer; None: as many as the gate weighs."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a gate behind the embeddings and one before each dense stage."""
        gamma, hidden = self.gamma, self.gate_hidden

        def gate(dense: Dense) -> PriorGate:
            return PriorGate(name=f"{dense.name}.ppnet", prior=self.ppnet_prior, gamma=gamma, hidden=hidden)

        epnet = EmbeddingGate(name="epnet", gamma=gamma, hidden=hidden)
        # First at the input: what a backbone has there, such as FinalMLP's feature gate, is given O.
        return replace(plan, at_input=(epnet, *plan.at_input)).before_dense(gate)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans where nothing but EPNet would be left."""
        has_dense = any(isinstance(stage, Dense) for stage in (*plan.tower, *plan.head))
        return None if has_dense else "there is no dense layer for PPNet's gates; epnet is the same here"

    @property
    def starts_as_backbone(self) -> float | None:
        """Exactly, where σ(0) means a factor of one."""
        return 0.0 if self.gamma == 2.0 else None
