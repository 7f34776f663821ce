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

from ctrbench.extend import Backbone, FactorizationMachine, FirstOrder, Plan


class DeepFm(Backbone):
    """First order, factorization machine and tower."""

    def plan(self) -> Plan:
        """Return tower and head, and two further logits."""
        logits = (FirstOrder(name="linear"), FactorizationMachine(name="fm"))
        return Plan(tower=self.tower(), head=self.output(), logits=logits, first_order=True)
