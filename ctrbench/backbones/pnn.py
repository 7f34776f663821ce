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

from dataclasses import dataclass
from typing import Literal

import torch

from ctrbench.extend import (
    Backbone,
    Build,
    Context,
    FieldVectors,
    Plan,
    Stage,
    StageModule,
)

# Shapes in names: B rows, N inputs, F fields, E embedding size.


class Pnn(Backbone):
    """Product layer, then tower."""

    products: Literal["inner", "outer", "both"] = "inner"
    """Inner products of pairs of fields, outer products of their sum, or both."""

    def plan(self) -> Plan:
        """Return product layer, tower and head."""
        products = FieldProducts(name="products", products=self.products)
        return Plan(interactions=(products,), join="stacked", tower=self.tower(), head=self.output())


@dataclass(frozen=True, kw_only=True)
class FieldProducts(Stage):
    """[z ; p] with products p: <v_i, v_j> for i < j, the entries a ≤ b of s s^T with s = Σ_i v_i, or both."""

    products: Literal["inner", "outer", "both"] = "inner"

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module."""
        return FieldProductsModule(self, num_inputs, build)


class FieldProductsModule(StageModule):
    """Computes `FieldProducts`."""

    inner: torch.Tensor
    outer: torch.Tensor

    def __init__(self, stage: FieldProducts, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.fields, self.products = FieldVectors(stage.name, num_inputs, build), stage.products
        inner, outer = _triangle_indices(self.fields.num_fields, 1), _triangle_indices(self.fields.size, 0)
        self.register_buffer("inner", inner, persistent=False)
        self.register_buffer("outer", outer, persistent=False)
        widths = {"inner": len(inner), "outer": len(outer), "both": len(inner) + len(outer)}
        self.num_outputs = num_inputs + widths[stage.products]

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N and products)."""
        fields_BFE, parts = self.fields(x_BN), [x_BN]
        if self.products != "outer":
            products_BFF = torch.bmm(fields_BFE, fields_BFE.mT)
            parts.append(products_BFF.flatten(1).index_select(1, self.inner))
        if self.products != "inner":
            sum_BE = fields_BFE.sum(1)
            products_BEE = sum_BE[:, :, None] * sum_BE[:, None]
            parts.append(products_BEE.flatten(1).index_select(1, self.outer))
        return torch.cat(parts, dim=1)


def _triangle_indices(size: int, offset: int) -> torch.Tensor:
    """Return the indices of the upper triangle in a flattened (size, size) matrix."""
    rows, columns = torch.triu_indices(size, size, offset)
    indices: torch.Tensor = rows * size + columns
    return indices
