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
from typing import Annotated, Self

from ctrbench.extend import Backbone, CompressedInteraction, Field, FirstOrder, Plan, model_validator


class XDeepFm(Backbone):
    """CIN, linear part and tower."""

    cin: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(32, 32), min_length=1)
    """Feature maps per CIN layer."""
    split_half: bool = False
    """Whether a map goes either to the next layer or to the output instead of to both."""

    @model_validator(mode="after")
    def _check(self) -> Self:
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
