"""PPNet: before each dense layer a gate, driven by who and what meets, weighs every number that enters.

Paper: Chang et al., PEPNet, KDD 2023
Year: 2023
Conditions on: embeddings of ids (user, item, shop, ad), or e_d; and all embeddings with their gradient stopped
Grows with domains: nothing

METHODS 7.4. Each dense layer of tower and head becomes φ((δ ⊙ h) W + b), with a gate of its own:

    δ = γ σ(ReLU(x A + a) A' + a'),  x = [prior ; sg(O)],  O the embeddings

Readings: the prior `ids` takes, of each of the roles user, item, shop and ad, the field with the most ids, which is the
id itself where a dataset has it, not a level or a brand. Domain features are no ids, whatever their role: they are the
prior `domain`. Where no field is left the setting is refused. O is what the network is given, before a backbone's own
stage at the input, such as FinalMLP's feature gate. A' and a' start at zero, so with γ = 2 PPNet starts as the
backbone; A has as many columns as the layer has inputs unless `gate_hidden` says otherwise; the prior learns through
the gates. The first gate weighs what enters the tower, the last what enters the head, what stands beside the tower
included; matrices of interactions, and FinalMLP's second stream, have no gates.
"""

from __future__ import annotations

from typing import Literal

from ctrbench.extend import Dense, Field, Method, Plan, PriorGate


class PPNet(Method):
    """A gate at the input of each dense layer."""

    ppnet_prior: Literal["ids", "domain"] = "ids"
    """What drives the gates: embeddings of ids, as in the paper, or e_d."""
    gamma: float = Field(default=2.0, gt=0.0, allow_inf_nan=False)
    """Largest factor γ; at the start each factor is half of it."""
    gate_hidden: int | None = Field(default=None, ge=1)
    """Width of each gate's hidden layer; None: that of the layer's input."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a gate before each dense stage."""
        return plan.before_dense(self._gate)

    def _gate(self, dense: Dense) -> PriorGate:
        return PriorGate(
            name=f"{dense.name}.ppnet", prior=self.ppnet_prior, gamma=self.gamma, hidden=self.gate_hidden
        )

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without a dense stage."""
        has_dense = any(isinstance(stage, Dense) for stage in (*plan.tower, *plan.head))
        return None if has_dense else "only what enters dense layers is gated, and this plan has none"

    @property
    def starts_as_backbone(self) -> float | None:
        """Exactly, where σ(0) means a factor of one."""
        return 0.0 if self.gamma == 2.0 else None
