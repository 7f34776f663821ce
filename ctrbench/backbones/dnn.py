"""DNN: embeddings, a tower of dense layers, one logit.

Paper: the DNN of AdaSparse, Yang et al., CIKM 2022
Year: 2022

    h^{l+1} = φ(h^l W^l + b^l)        φ = tanh by default, as in the paper; linear output

See spec: conventions-0.3.

Plan: tower and head.
"""

from __future__ import annotations

from ctrbench.extend import Backbone, Plan


class Dnn(Backbone):
    """A multi-layer perceptron: the tower without interactions."""

    def plan(self) -> Plan:
        """Return tower and head."""
        return Plan(tower=self.tower(), head=self.output())
