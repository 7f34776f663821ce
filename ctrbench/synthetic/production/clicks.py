"""A block of rows with its clicks: the standardised parts, the logit, probabilities, labels, bids and prices.

What `production_block` computes raw is put together here by the constants of the calibration (spec: production-9.6 to
production-9.8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ctrbench.synthetic.philox import Floats
from ctrbench.synthetic.production import truth
from ctrbench.synthetic.production.block import Block
from ctrbench.synthetic.production.calibration import Constants, part_weights
from ctrbench.synthetic.production.rows import HISTORY_DAYS, RATE_SHIFT, RATE_SPREAD

ITEM_CTR_SLOPE, ITEM_CTR_NOISE = 0.4, 0.4
"""The log-odds of the estimate of an item's CTR: slope · quality + noise, but for their level."""


class Component(StrEnum):
    """Parts of the logit as columns: of variance 1, but for the drift, which is in logits."""

    DOMAIN = "component_domain"
    DRIFT = "component_drift"
    SHARED = "component_shared"
    STRUCTURED = "component_structured"
    IDIOSYNCRATIC = "component_idiosyncratic"
    BEHAVIOUR = "component_behaviour"
    RESIDUAL = "component_residual"


@dataclass(frozen=True, kw_only=True)
class ClickBlock(Block):
    """Rows and what becomes of them."""

    constants: Constants

    @cached_property
    def components(self) -> dict[Component, Floats]:
        """Each part of the logit."""
        shared, structured, idiosyncratic, behaviour = self._standard
        world = self.world.truth
        return {
            Component.DOMAIN: world.level_D[self.domain],
            Component.DRIFT: world.drift_SD[self.scenario, self.times[0]],
            Component.SHARED: shared,
            Component.STRUCTURED: structured,
            Component.IDIOSYNCRATIC: idiosyncratic,
            Component.BEHAVIOUR: behaviour,
            Component.RESIDUAL: self.residual,
        }

    @cached_property
    def _standard(self) -> Floats:
        means, sds = self.constants.mean_table(), self.constants.sd_table()
        return np.asarray((self.parts - means[:, self.scenario]) / sds[:, None])

    @cached_property
    def _logits(self) -> tuple[Floats, Floats]:
        """The logit without the residual, and the true one."""
        world, known, logit = self.world.truth, self._floats(), self._floats()
        truth.logits(
            float(self.constants.mu),
            self.domain,
            self.scenario,
            self.times[0],
            world.level_D,
            world.drift_SD,
            self._standard,
            part_weights(self.world.spec),
            self.residual,
            known,
            logit,
        )
        return known, logit

    @cached_property
    def probability(self) -> Floats:
        """The true click probability p."""
        probability = self._floats()
        truth.clicks(self._logits[1], probability)
        return probability

    @cached_property
    def ceiling(self) -> Floats:
        """The learnable ceiling p*: the click probability given all but the residual."""
        probability = self._floats()
        truth.ceilings(self._logits[0], probability)
        return probability

    @cached_property
    def outcome(self) -> tuple[NDArray[np.int8], Floats]:
        """The click, and the uniform that the price reads."""
        label, rest = np.empty(self.stop - self.start, dtype=np.int8), self._floats()
        truth.outcomes(self.start, self.seed, self.draw, self.probability, label, rest)
        return label, rest

    @cached_property
    def bid(self) -> Floats:
        """The advertiser's bid of the day."""
        _, shop, price_level, _ = self.item_features
        correlation, bid = self.world.spec.bid_quality_corr, self._floats()
        truth.bids(self.seed, correlation, shop, price_level, self.times[0], self.quality, bid)
        return bid

    @cached_property
    def price(self) -> Floats:
        """What a click costs: a stand-in for the unseen runner-up's bid."""
        return self.bid * (truth.PRICE_SHARE + truth.PRICE_RANGE * self.outcome[1])

    @property
    def cost(self) -> Floats:
        """What the impression cost."""
        return self.outcome[0] * self.price

    @property
    def item_ctr(self) -> Floats:
        """What days before the first one told of the item's CTR: its log-odds, standardised over items."""
        known = ITEM_CTR_SLOPE * self.quality + ITEM_CTR_NOISE * self.quality_noise
        return known / math.hypot(ITEM_CTR_SLOPE, ITEM_CTR_NOISE)

    @property
    def user_activity(self) -> Floats:
        """The user's behaviours before the first day: the logarithm of one more, standardised over users, about."""
        count = np.floor(HISTORY_DAYS * np.exp(self.log_rate))
        return (np.log1p(count) - math.log(HISTORY_DAYS) - RATE_SHIFT) / RATE_SPREAD
