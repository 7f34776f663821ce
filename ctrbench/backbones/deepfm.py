"""DeepFM: a factorization machine and a deep tower on the same embeddings, their logits added.

Paper: Guo et al., DeepFM, IJCAI 2017
Year: 2017

    s = <w, x> + Σ_{i<j} <v_i, v_j> x_i x_j + tower(z)

w: a weight for each id, zero at the start; v_i: the embedding of field i, which the tower takes too. A plain number
x_k is a field with a learned vector v_k and a weight w_k, as in the paper's FM; a list's ids count as their mean, in w
and in v.

Readings: the head's bias is the only one; tanh or ReLU as in every backbone. First order and FM are logits of their
own: what a method puts before the tower reaches the deep part alone, a gate on the embeddings the FM too. Left out:
dropout.
"""

from __future__ import annotations

from ctrbench.extend import Backbone, FactorizationMachine, FirstOrder, Plan


class DeepFm(Backbone):
    """First order, factorization machine and tower."""

    def plan(self) -> Plan:
        """Return tower and head, and two further logits."""
        logits = (FirstOrder(name="linear"), FactorizationMachine(name="fm"))
        return Plan(tower=self.tower(), head=self.output(), logits=logits, first_order=True)
