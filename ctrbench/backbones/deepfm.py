"""DeepFM: a factorization machine and a deep tower on the same embeddings, with their logits added.

Paper: Guo et al., DeepFM, IJCAI 2017
Year: 2017

    s = <w, x> + Σ_{i<j} <v_i, v_j> x_i x_j + tower(z)

w holds a weight per id, zero at the start; v_i is the embedding of field i, which the tower reads too. A numeric field
x_k has a learned vector v_k and a weight w_k, as in the paper's factorization machine. A list counts as the mean of its
ids, in w and in v (spec: deepfm-5.4).

Plan: tower, head and two further logits.

Choices: the bias of the head is the only one; the activation is tanh or ReLU as in every backbone.

Not implemented: dropout.

Limits: first order and factorization machine are logits of their own. A method's stages before the tower do not affect
them; a gate on the embeddings affects the factorization machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ctrbench.extend import (
    Backbone,
    Build,
    Context,
    FieldVectors,
    FirstOrder,
    Plan,
    Stage,
    StageModule,
)

# Shapes in names: B rows, N inputs, F fields, E embedding size.


class DeepFm(Backbone):
    """First order, factorization machine and tower."""

    def plan(self) -> Plan:
        """Return tower and head, and two further logits."""
        logits = (FirstOrder(name="linear"), FactorizationMachine(name="fm"))
        return Plan(tower=self.tower(), head=self.output(), logits=logits, first_order=True)


@dataclass(frozen=True, kw_only=True)
class FactorizationMachine(Stage):
    """Σ_{i<j} <v_i, v_j> over fields, as ½ Σ_e ((Σ_i v_ie)² - Σ_i v_ie²) (Rendle, FM, ICDM 2010).

    It is one of the `logits` of a plan, but reads the embeddings that the network receives.
    """

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module, with one output."""
        return FactorizationMachineModule(self, num_inputs, build)


class FactorizationMachineModule(StageModule):
    """Computes `FactorizationMachine`."""

    num_outputs = 1

    def __init__(self, stage: FactorizationMachine, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.fields = FieldVectors(stage.name, num_inputs, build)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, 1)."""
        fields_BFE: torch.Tensor = self.fields(context.embeddings_BN)
        square_BE = fields_BFE.sum(1).square() - fields_BFE.square().sum(1)
        return 0.5 * square_BE.sum(1, keepdim=True)
