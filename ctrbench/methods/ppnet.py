"""PPNet: a gate before each dense layer, conditioned on the row's ids, scales the layer's inputs.

Paper: Chang et al., PEPNet, KDD 2023
Year: 2023
Uses: embeddings of ids (user, item, shop, ad) or e_d, and all embeddings without their gradient
Parameters per domain: none

Each dense layer of tower and head becomes φ((δ ⊙ h) W + b), with its own gate (spec: pepnet-7.4):

    δ = γ σ(ReLU(x A + a) A' + a')        x = [prior ; sg(O)]        O: the embeddings

Plan: one stage before each dense stage of tower and head.

Choices: the prior `ids` consists of the field with the most ids of each of the roles user, item, shop and ad; that is
the id itself where a dataset has one, and not a level or a brand. Domain features belong to the prior `domain` in
every role. A prior without fields is refused. O is the network input before a backbone's own input stage, such as
FinalMLP's feature gate. A' and a' start at zero, so with γ = 2 PPNet starts as the backbone. A has as many columns as
the layer has inputs unless `gate_hidden` is set. The prior learns through the gates. The last gate scales the whole
input of the head, interactions beside the tower included.

Limits: weight matrices of interactions and FinalMLP's second stream have no gates.
"""

from __future__ import annotations

from typing import Annotated, Literal

from ctrbench.extend import Choices, Dense, Field, Method, Plan, PriorGate


class PPNet(Method):
    """A gate at the input of each dense layer."""

    ppnet_prior: Annotated[Literal["ids", "domain"], Choices("ids", "domain")] = "ids"
    """Input of the gates: embeddings of ids, as in the paper, or e_d."""
    gamma: float = Field(default=2.0, gt=0.0, allow_inf_nan=False)
    """Largest factor γ; factors start at half of it."""
    gate_hidden: Annotated[int | None, Choices(None, 32, 64)] = Field(default=None, ge=1, le=65_536)
    """Width of each gate's hidden layer; none: the width of the gated input."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a gate before each dense stage."""
        return plan.before_dense(self._prior_gate)

    def _prior_gate(self, dense: Dense) -> PriorGate:
        return PriorGate(
            name=f"{dense.name}.ppnet", prior=self.ppnet_prior, gamma=self.gamma, hidden=self.gate_hidden
        )

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without a dense stage."""
        return None if plan.has_dense else "gates stand before dense layers, and this plan has none"

    @property
    def starts_as_backbone(self) -> float | None:
        """Return 0.0 for γ = 2, where σ(0) is a factor of one; no claim otherwise."""
        return 0.0 if self.gamma == 2.0 else None
