"""PNN: a layer of products between fields under the deep tower.

Paper: Qu et al., Product-based Neural Networks for User Response Prediction, ICDM 2016
Year: 2016

    s = tower([z ; p]),   inner (IPNN): p = <v_i, v_j> for all pairs i < j
                          outer (OPNN): p = the entries of s s^T with s = Σ_i v_i

and both for PNN*. The tower's first layer is the paper's: l_z + l_p + b, with matrices on z and on p. v_i are the
fields' embeddings; a plain number x_k enters z as it is and the products as v_k x_k with v_k learned.

Readings: outer products are summed over all pairs, as the paper does to keep them affordable; s s^T is symmetric, so
its upper triangle with the diagonal says all. Departures: inner products of a field with itself, which the paper's
sums contain, are left out; the matrix on p is full, not the paper's product of low rank.
"""

from __future__ import annotations

from typing import Literal

from ctrbench.extend import Backbone, FieldProducts, Plan


class Pnn(Backbone):
    """Product layer, then tower."""

    products: Literal["inner", "outer", "both"] = "inner"
    """Inner products, outer ones, or both."""

    def plan(self) -> Plan:
        """Return product layer, tower and head."""
        products = FieldProducts(name="products", products=self.products)
        return Plan(interactions=(products,), join="stacked", tower=self.tower(), head=self.output())
