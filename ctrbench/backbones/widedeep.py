"""Wide & Deep: a linear model of the ids beside the deep tower, trained jointly.

Paper: Cheng et al., Wide & Deep Learning for Recommender Systems, DLRS 2016
Year: 2016

    s = <w_wide, [x ; φ(x)]> + tower(z)

w_wide holds a weight per id, zero at the start, and one per numeric field. A list counts as the mean of its ids
(spec: widedeep-5.5).

Plan: tower, head and one further logit.

Not implemented: φ, the cross-product transformations, which have to be chosen by hand for each dataset; FTRL for the
wide part, which is trained like all other parameters.

Limits: the wide part is a logit of its own, which a method's stages do not affect.
"""

from __future__ import annotations

from ctrbench.extend import Backbone, FirstOrder, Plan


class WideDeep(Backbone):
    """Linear part and tower."""

    def plan(self) -> Plan:
        """Return tower and head, and the wide logit."""
        logits = (FirstOrder(name="wide"),)
        return Plan(tower=self.tower(), head=self.output(), logits=logits, first_order=True)
