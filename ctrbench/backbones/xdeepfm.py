"""xDeepFM: a compressed interaction network (CIN), a linear model and the deep tower.

Paper: Lian et al., xDeepFM, KDD 2018
Year: 2018

    x^k_h = Σ_i Σ_j W^k_hij (x^{k-1}_i ⊙ x^0_j),   p^k_h = Σ_e x^k_he
    s = <w_linear, x> + <w_cin, [p^1 ; … ; p^T]> + tower(z) + b

x^0 are the fields' embeddings, a plain number x_k being v_k x_k with v_k learned; w_linear holds a weight for each id,
zero at the start, for lists on their ids' average, and one for each plain number. The last layer of the tower and
that of the CIN are one linear head.

Readings: no activation in the CIN and no bias, as in the paper's formula and experiments. `split_half` is not in the
paper's formulas but in public code: half of a layer's maps go to the next layer, the others to the output. Maps a
layer are fewer than the paper's 100 to 200, as our tower is narrower than its 400. The linear part is a logit of its
own, which a method's stages do not reach.
"""

from __future__ import annotations

from typing import Annotated, Self

from ctrbench.extend import Backbone, CompressedInteraction, Field, FirstOrder, Plan, model_validator


class XDeepFm(Backbone):
    """CIN, linear part and tower."""

    cin: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(32, 32), min_length=1)
    """Feature maps of each CIN layer."""
    split_half: bool = False
    """Whether a map goes either to the next layer or to the output, and not to both."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.split_half and len(self.cin) == 1:
            raise ValueError("split_half has no effect with these settings; leave it out")
        if self.split_half and any(width % 2 for width in self.cin[:-1]):
            raise ValueError("with split_half, cin layers before the last have an even number of maps")
        return self

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
