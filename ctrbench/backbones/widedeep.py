"""Wide & Deep: a linear model of the ids beside the deep tower, trained jointly.

Paper: Cheng et al., Wide & Deep Learning for Recommender Systems, DLRS 2016
Year: 2016

    s = <w_wide, [x ; φ(x)]> + tower(z)

w_wide: a weight for each id, zero at the start, for lists on their ids' average, and one for each plain number. Left
out: φ, the cross-product transformations, since a person has to name them for each dataset; FTRL for the wide
part, which is trained as all else. The wide part is a logit of its own, which a method's stages do not reach.
"""

from __future__ import annotations

from ctrbench.extend import Backbone, FirstOrder, Plan


class WideDeep(Backbone):
    """Linear part and tower."""

    def plan(self) -> Plan:
        """Return tower and head, and the wide logit."""
        logits = (FirstOrder(name="wide"),)
        return Plan(tower=self.tower(), head=self.output(), logits=logits, first_order=True)
