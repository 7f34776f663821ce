"""EPNet: one gate, driven by the domain, weighs every number of the embedding layer.

Paper: Chang et al., PEPNet, KDD 2023
Year: 2023
Conditions on: e_d, and all embeddings with their gradient stopped
Grows with domains: nothing

METHODS 7.4. O = δ ⊙ E with δ = γ σ(ReLU(x A + a) A' + a') and x = [e_d ; sg(E)]; all behind the embeddings is given O.

Readings: E is all of the input vector, pooled lists, plain numbers and e_d itself among it; A' and a' start at zero,
so with γ = 2 EPNet starts as the backbone; A has as many columns as E has unless `gate_hidden` says otherwise; e_dom is
e_d, without statistics of the domain, and learns through the gate too. E learns through δ ⊙ E, not through the gate.
Departures: two things stay ungated. First-order weights, of the wide part and of linear logits, are no part of E; and
the auxiliary network (`aux`) sees E itself. All else is given O, so are the logit of DeepFM's factorization machine and
FinalMLP's second stream.
"""

from __future__ import annotations

from dataclasses import replace

from ctrbench.extend import EmbeddingGate, Field, Method, Plan


class EPNet(Method):
    """A gate on the embedding layer."""

    gamma: float = Field(default=2.0, gt=0.0, allow_inf_nan=False)
    """Largest factor γ; at the start each factor is half of it."""
    gate_hidden: int | None = Field(default=None, ge=1)
    """Width of the gate's hidden layer; None: that of the embedding layer."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the gate behind the embeddings."""
        gate = EmbeddingGate(name="epnet", gamma=self.gamma, hidden=self.gate_hidden)
        # First at the input: what a backbone has there, such as FinalMLP's feature gate, is given O.
        return replace(plan, at_input=(gate, *plan.at_input))

    @property
    def starts_as_backbone(self) -> float | None:
        """Exactly, where σ(0) means a factor of one."""
        return 0.0 if self.gamma == 2.0 else None
