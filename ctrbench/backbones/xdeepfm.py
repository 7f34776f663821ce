"""xDeepFM: a compressed interaction network (CIN), a linear model and the deep tower.

Paper: Lian et al., xDeepFM, KDD 2018
Year: 2018

    x^k_h = Σ_i Σ_j W^k_hij (x^{k-1}_i ⊙ x^0_j),   p^k_h = Σ_e x^k_he
    s = <w_linear, x> + <w_cin, [p^1 ; … ; p^T]> + tower(z) + b

x^0 are the embeddings of the fields, with v_k x_k and a learned v_k for a numeric field. w_linear holds a weight per
id, zero at the start, and one per numeric field; a list counts as the mean of its ids. The output layers of tower and
CIN are one linear head (spec: xdeepfm-5.8).

Plan: the CIN as an interaction, tower, head and one further logit.

Choices: the CIN has no activation and no bias, as in the paper's formula and experiments. `split_half` is in public
code, not in the paper's formulas: half of a layer's maps go to the next layer, the others to the output. Layers have
fewer maps than the paper's 100 to 200, as the tower is narrower than its 400.

Limits: the linear part is a logit of its own, which a method's stages do not affect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from torch import nn

from ctrbench.extend import (
    Backbone,
    Build,
    Context,
    Field,
    FieldVectors,
    FirstOrder,
    Plan,
    Stage,
    StageModule,
    model_validator,
    start_weight,
)

# Shapes in names: B rows, N inputs, F fields, E embedding size, H and M feature maps.


class XDeepFm(Backbone):
    """CIN, linear part and tower."""

    cin: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        default=(32, 32), min_length=1, max_length=64
    )
    """Feature maps per CIN layer."""
    split_half: bool = False
    """Whether a map goes either to the next layer or to the output instead of to both."""

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if self.split_half and any(width % 2 for width in self.cin[:-1]):
            raise ValueError("split_half needs an even number of maps in each cin layer before the last")
        return self

    def idle(self) -> Iterator[str]:
        """Yield `split_half` for a single layer, which has no next one."""
        yield from super().idle()
        if len(self.cin) == 1:
            yield "split_half"

    def plan(self) -> Plan:
        """Return CIN, tower and head, and the linear logit."""
        cin = CompressedInteraction(name="cin", widths=self.cin, split_half=self.split_half)
        return Plan(
            interactions=(cin,),
            tower=self.tower(),
            head=self.output(),
            logits=(FirstOrder(name="linear"),),
            first_order=True,
        )


@dataclass(frozen=True, kw_only=True)
class CompressedInteraction(Stage):
    """xDeepFM's compressed interaction network (CIN), whose feature maps have E numbers each.

        x^k_h = Σ_i Σ_j W^k_hij (x^{k-1}_i ⊙ x^0_j),   output: Σ_e x^k_he of all maps of all layers

    x^0 are the fields. With `split_half`, the first half of a layer's maps is passed to the next layer and the second
    half to the output; the maps of the last layer are all passed to the output.
    """

    widths: tuple[int, ...]
    split_half: bool = False

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; weights start Xavier uniform."""
        return CompressedInteractionModule(self, num_inputs, build)


class CompressedInteractionModule(StageModule):
    """Computes `CompressedInteraction`, with rows and the numbers of a map on the last axes.

    In the first layer, the equal products x_i ⊙ x_j and x_j ⊙ x_i are computed once. Maps that are only passed to the
    output are computed as sums over E, Σ_ij W_hij <x^{k-1}_i, x^0_j>, which costs a factor of E less.
    """

    pairs: torch.Tensor

    def __init__(self, stage: CompressedInteraction, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.fields = FieldVectors(stage.name, num_inputs, build)
        num_fields = num_maps = self.fields.num_fields
        self.register_buffer("pairs", torch.triu_indices(num_fields, num_fields), persistent=False)
        self.weights, self.num_next, self.num_outputs = nn.ParameterList(), [], 0
        for layer, width in enumerate(stage.widths):
            generator = build.generator(f"{stage.name}.{layer}")
            start = start_weight(num_maps * num_fields, width, None, generator)
            self.weights.append(nn.Parameter(start.view(num_maps, num_fields, width)))
            is_last = layer == len(stage.widths) - 1
            num_maps = 0 if is_last else width // 2 if stage.split_half else width
            self.num_next.append(num_maps)
            self.num_outputs += width - num_maps if stage.split_half else width

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, maps passed to the output)."""
        first_FBE = maps_HBE = self.fields(x_BN).transpose(0, 1).contiguous()
        sums = []
        for weight_HFM, num_next in zip(self.weights, self.num_next, strict=True):
            before_HBE = maps_HBE
            if num_next:
                maps_HBE = self._next_maps(before_HBE, first_FBE, weight_HFM[:, :, :num_next])
            if num_next < weight_HFM.shape[2]:
                products_BHF = torch.bmm(before_HBE.transpose(0, 1), first_FBE.permute(1, 2, 0))
                sums.append(products_BHF.flatten(1) @ weight_HFM[:, :, num_next:].flatten(0, 1))
            else:
                sums.append(maps_HBE.sum(2).T)
        return torch.cat(sums, dim=1)

    def _next_maps(
        self, before_HBE: torch.Tensor, first_FBE: torch.Tensor, weight_HFM: torch.Tensor
    ) -> torch.Tensor:
        """Return the maps of a layer, given those of the layer before."""
        if before_HBE is first_FBE:
            i, j = self.pairs
            products = first_FBE.index_select(0, i) * first_FBE.index_select(0, j)
            weight = weight_HFM[i, j] + weight_HFM[j, i] * (i != j)[:, None]
        else:
            products, weight = (before_HBE[:, None] * first_FBE).flatten(0, 1), weight_HFM.flatten(0, 1)
        maps_HBE: torch.Tensor = (weight.T @ products.flatten(1)).view(-1, *first_FBE.shape[1:])
        return maps_HBE
