"""PNN: a layer of products between fields below the deep tower.

Paper: Qu et al., Product-based Neural Networks for User Response Prediction, ICDM 2016
Year: 2016

    s = tower([z ; p]),   inner (IPNN): p = <v_i, v_j> for all pairs i < j
                          outer (OPNN): p = the entries of s s^T with s = Σ_i v_i

and both for PNN*. The tower's first layer is the paper's l_z + l_p + b, with a matrix on z and one on p. v_i are the
embeddings of the fields; a numeric field x_k enters z unchanged and the products as v_k x_k with a learned v_k
(spec: pnn-5.6).

Plan: the product layer as an interaction below the tower, and head.

Choices: outer products are summed over all pairs, as in the paper, which keeps them affordable. s s^T is symmetric, so
p holds its upper triangle with the diagonal.

Deviations: inner products of a field with itself, which the sums of the paper contain, are left out. The matrix on p is
full, not the paper's product of low rank.
"""

from __future__ import annotations

from typing import Literal

from ctrbench.extend import Backbone, FieldProducts, Plan


class Pnn(Backbone):
    """Product layer, then tower."""

    products: Literal["inner", "outer", "both"] = "inner"
    """Inner products of pairs of fields, outer products of their sum, or both."""

    def plan(self) -> Plan:
        """Return product layer, tower and head."""
        products = FieldProducts(name="products", products=self.products)
        return Plan(interactions=(products,), join="stacked", tower=self.tower(), head=self.output())
