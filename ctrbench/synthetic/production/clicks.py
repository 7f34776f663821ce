"""Block of rows with clicks: standardized components, logit, probabilities, labels, bids and prices.

`ClickBlock` standardizes the raw components of `block.Block` by the calibration constants (spec: production-9.6 to
production-9.8). It is a class of its own because these constants are computed from raw components. All arrays have one
element per row.
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
from ctrbench.synthetic.production.behaviors import HISTORY_DAYS, RATE_SHIFT, RATE_STD
from ctrbench.synthetic.production.block import Block
from ctrbench.synthetic.production.calibration import Constants, part_weights

ITEM_CTR_SLOPE, ITEM_CTR_NOISE = 0.4, 0.4
"""The log-odds of an item's estimated CTR are slope · quality + noise, up to a constant."""


class Component(StrEnum):
    """Columns with the components of the logit: of variance 1, except for the drift, which is in logits."""

    DOMAIN = "component_domain"
    DRIFT = "component_drift"
    LEVEL = "component_level"
    TASTE = "component_taste"
    STRUCTURED = "component_structured"
    IDIOSYNCRATIC = "component_idiosyncratic"
    BEHAVIOR = "component_behaviour"
    RESIDUAL = "component_residual"


@dataclass(frozen=True, kw_only=True)
class ClickBlock(Block):
    """Block of rows with their click probabilities, clicks, bids and prices."""

    constants: Constants

    @cached_property
    def components(self) -> dict[Component, Floats]:
        """Components of the logit, one array per column."""
        level, taste, structured, idiosyncratic, behavior = self._standardized
        world = self.world.truth
        return {
            Component.DOMAIN: world.level_D[self.domain],
            Component.DRIFT: world.drift_SD[self.scenario, self.times[0]],
            Component.LEVEL: level,
            Component.TASTE: taste,
            Component.STRUCTURED: structured,
            Component.IDIOSYNCRATIC: idiosyncratic,
            Component.BEHAVIOR: behavior,
            Component.RESIDUAL: self.residual,
        }

    @cached_property
    def _standardized(self) -> Floats:
        means, sds = self.constants.mean_table(), self.constants.sd_table()
        return np.asarray((self.parts - means[:, self.scenario]) / sds[:, None])

    @cached_property
    def _logits(self) -> tuple[Floats, Floats]:
        """Logit without the residual, and true logit."""
        world, base_logit, logit = self.world.truth, self._empty_floats(), self._empty_floats()
        truth.logits(
            float(self.constants.mu),
            self.domain,
            self.scenario,
            self.times[0],
            world.level_D,
            world.drift_SD,
            self._standardized,
            part_weights(self.world.spec),
            self.residual,
            base_logit,
            logit,
        )
        return base_logit, logit

    @property
    def levels(self) -> Floats:
        """Sum of the main effects of all fields, as a logit: the best score without interactions."""
        domain = math.sqrt(truth.V_DOMAIN) * self.world.truth.additive_D[self.domain]
        return float(self.constants.mu) + domain + math.sqrt(truth.V_LEVEL) * self.components[Component.LEVEL]

    @cached_property
    def probability(self) -> Floats:
        """True click probability p."""
        probability = self._empty_floats()
        truth.clicks(self._logits[1], probability)
        return probability

    @cached_property
    def ceiling(self) -> Floats:
        """Learnable ceiling p*: the click probability given all components but the residual."""
        probability = self._empty_floats()
        truth.ceilings(self._logits[0], probability)
        return probability

    @cached_property
    def outcome(self) -> tuple[NDArray[np.int8], Floats]:
        """Clicks (0 or 1), and the uniform random numbers that determine prices."""
        label, price_uniform = np.empty(self.stop - self.start, dtype=np.int8), self._empty_floats()
        truth.outcomes(self.start, self.seed, self.draw, self.probability, label, price_uniform)
        return label, price_uniform

    @cached_property
    def bid(self) -> Floats:
        """The advertiser's bid on the day of the row."""
        _, shop, price_level, _ = self.item_features
        correlation, bid = self.world.spec.bid_quality_corr, self._empty_floats()
        truth.bids(self.seed, correlation, shop, price_level, self.times[0], self.quality, bid)
        return bid

    @cached_property
    def price(self) -> Floats:
        """Price per click: a random fraction of the bid, in place of the second-highest bid."""
        return self.bid * (truth.PRICE_SHARE + truth.PRICE_RANGE * self.outcome[1])

    @property
    def cost(self) -> Floats:
        """Cost of the impression: the price if clicked, else 0."""
        return self.outcome[0] * self.price

    @property
    def item_ctr(self) -> Floats:
        """Log-odds of the item's CTR as estimated before the first day, standardized over items."""
        log_odds = ITEM_CTR_SLOPE * self.quality + ITEM_CTR_NOISE * self.quality_noise
        return log_odds / math.hypot(ITEM_CTR_SLOPE, ITEM_CTR_NOISE)

    @property
    def user_activity(self) -> Floats:
        """log(1 + behaviors of the user before the first day), approximately standardized over users."""
        count = np.floor(HISTORY_DAYS * np.exp(self.log_rate))
        return (np.log1p(count) - math.log(HISTORY_DAYS) - RATE_SHIFT) / RATE_STD
