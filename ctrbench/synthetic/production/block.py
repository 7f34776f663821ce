"""Block of rows of the Production-scale data; each quantity is computed at its first access.

Each quantity reads only the quantities it depends on, so that generating the domains of a billion rows needs no other
draws, and a dataset without sequences generates none. A block is small enough that its arrays fit into the cache of the
processor. B rows of a block, K slots of a sequence; indices of entities start at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ctrbench.synthetic.philox import Floats, Integers
from ctrbench.synthetic.production import behaviors, rows, truth
from ctrbench.synthetic.production.distributions import second_table
from ctrbench.synthetic.production.spec import NOISE_SIZES
from ctrbench.synthetic.production.streams import Stream
from ctrbench.synthetic.production.traffic import USER_EXPONENT
from ctrbench.synthetic.production.true_parameters import LATENT
from ctrbench.synthetic.production.world import World

BLOCK_ROWS = 1 << 14
DATA, CALIBRATION = 0, 1
"""Draws: rows of the dataset, and rows of the calibration."""
_FORMS = {"bilinear": truth.BILINEAR, "mlp": truth.MLP, "tree": truth.TREE}


@dataclass(frozen=True)
class Block:
    """Rows from `start` to `stop` out of `num_rows` rows that cover all days."""

    world: World
    start: int
    stop: int
    num_rows: int
    draw: int = DATA

    @property
    def seed(self) -> int:
        """Seed of the dataset."""
        return self.world.spec.seed

    def _empty_integers(self, *shape: int) -> Integers:
        return np.empty((*shape, self.stop - self.start), dtype=np.int64)

    def _empty_floats(self, *shape: int) -> Floats:
        return np.empty((*shape, self.stop - self.start))

    # --- time, domain and user -------------------------------------------------------------------------------------

    @cached_property
    def times(self) -> tuple[Integers, Floats]:
        """Day, and second of the day, of each row."""
        day, second = self._empty_integers(), self._empty_floats()
        rows.times(self.start, self.num_rows, self.world.spec.days, second_table(), day, second)
        return day, second

    @cached_property
    def domain(self) -> Integers:
        """Index of the row's domain in `World.domains`."""
        traffic, domain = self.world.traffic, self._empty_integers()
        begin = 5 * self.world.spec.days // 6
        tables = (traffic.mix, traffic.scenario_start, traffic.domain, traffic.order)
        rows.domains(self.start, self.seed, self.draw, *self.times, begin, *tables, domain)
        return domain

    @cached_property
    def scenario(self) -> Integers:
        """Scenario, as rank by traffic."""
        return self.world.domains.scenario[self.domain]

    @cached_property
    def position(self) -> Integers:
        """Ad position, as rank by traffic."""
        return self.world.domains.position[self.domain]

    @cached_property
    def profile(self) -> Integers:
        """User profile: combined index of gender, age and level."""
        return self.world.domains.profile[self.domain]

    @cached_property
    def user(self) -> Integers:
        """User, drawn from the profile of the domain."""
        start, user = self.world.traffic.user_start, self._empty_integers()
        power = (np.diff(start) + 1.0) ** (1 - USER_EXPONENT)
        profiles = self.world.domains.profile
        rows.users(self.start, self.seed, self.draw, self.domain, profiles, start, power, user)
        return user

    @cached_property
    def city_and_device(self) -> Integers:
        """City and device of the user (2, B)."""
        traffic, columns = self.world.traffic, self._empty_integers(2)
        tables = (traffic.city, traffic.city_guide, traffic.device)
        rows.user_features(self.seed, int(Stream.USER_FEATURES), self.user, *tables, columns)
        return columns

    @cached_property
    def noise(self) -> Integers:
        """Noise features of the user, which do not affect clicks (4, B)."""
        columns = self._empty_integers(4)
        rows.user_noise(self.seed, int(Stream.USER_NOISE), self.user, NOISE_SIZES, columns)
        return columns

    @cached_property
    def log_rate(self) -> Floats:
        """Logarithm of the user's behaviors per day."""
        rate = self._empty_floats()
        behaviors.rates(self.seed, self.user, rate)
        return rate

    @cached_property
    def slots(self) -> Integers:
        """Number of behaviors of the user before the impression."""
        slots = self._empty_integers()
        behaviors.histories(self.log_rate, *self.times, slots)
        return slots

    @cached_property
    def context(self) -> Integers:
        """Page index and network type (2, B)."""
        traffic, columns = self.world.traffic, self._empty_integers(2)
        stream = int(Stream.ROW_CONTEXT)
        rows.contexts(self.start, self.seed, self.draw, stream, traffic.page, traffic.network, columns)
        return columns

    # --- item and behaviors ---------------------------------------------------------------------------------------

    @property
    def _catalog(self) -> behaviors.Catalog:
        traffic = self.world.traffic
        return behaviors.Catalog(
            traffic.category, traffic.category_guide, traffic.item_start, traffic.item_power
        )

    @cached_property
    def category_and_item(self) -> tuple[Integers, Integers]:
        """Category and item, drawn together."""
        traffic, category, item = self.world.traffic, self._empty_integers(), self._empty_integers()
        rows.items(
            rows.Draw(self.seed, self.start, self.draw),
            self.user,
            self.slots,
            self.scenario,
            self._catalog,
            traffic.tilted,
            traffic.tilted_guide,
            category,
            item,
        )
        return category, item

    @property
    def category(self) -> Integers:
        """Category, as rank by traffic."""
        return self.category_and_item[0]

    @property
    def item(self) -> Integers:
        """Item; items of a category have consecutive indices, ordered by popularity."""
        return self.category_and_item[1]

    @cached_property
    def item_features(self) -> Integers:
        """Brand, shop, price level and creative type (4, B)."""
        columns = self._empty_integers(4)
        rows.item_features(self.seed, self.item, self.category, self.world.spec.num_shops, columns)
        return columns

    @cached_property
    def sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """Categories and items of the last behaviors (B, K), oldest first, padded with -1."""
        shape = (self.stop - self.start, self.world.spec.sequence_length)
        category, item = np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.int32)
        behaviors.sequences(self.seed, self.user, self.slots, self._catalog, category, item)
        return category, item

    @property
    def negatives(self) -> np.ndarray:
        """One uniformly drawn item per element of the sequences (B, K), padded with -1."""
        spec = self.world.spec
        item = np.empty((self.stop - self.start, spec.sequence_length), dtype=np.int32)
        behaviors.negatives(self.seed, spec.num_items, self.user, self.slots, item)
        return item

    # --- components of the logit -----------------------------------------------------------------------------------

    @cached_property
    def _qualities(self) -> tuple[Floats, Floats]:
        quality, noise = self._empty_floats(), self._empty_floats()
        brand, shop = self.item_features[:2]
        table = self.world.truth.quality_C
        truth.qualities(self.seed, self.item, self.category, brand, shop, table, quality, noise)
        return quality, noise

    @property
    def quality(self) -> Floats:
        """Item quality, of variance 1."""
        return self._qualities[0]

    @property
    def quality_noise(self) -> Floats:
        """Noise in the observed estimate of item quality, standard normal per item."""
        return self._qualities[1]

    @property
    def content(self) -> Floats:
        """Content vector of the item (K, B)."""
        return self._contents[0]

    @cached_property
    def _contents(self) -> tuple[Floats, Floats]:
        """Content vector of the item (K, B), and the components taste, structured and idiosyncratic (3, B)."""
        world, content, parts = self.world.truth, self._empty_floats(LATENT), self._empty_floats(3)
        truth.contents(
            self.seed,
            _FORMS[self.world.spec.interaction],
            truth.Entities(
                self.user,
                self.profile,
                self.city_and_device[0],
                self.item,
                self.category,
                self.item_features[0],
                self.domain,
            ),
            truth.Latents(
                world.content_CK,
                world.taste_PT,
                world.city_taste,
                world.structured_DK,
                world.idiosyncratic_DK,
                world.mlp,
                world.tree,
            ),
            content,
            parts,
        )
        return content, parts

    @cached_property
    def level(self) -> Floats:
        """Sum of the main effects of item and user."""
        world, level, part = self.world.truth, self._empty_floats(), self._empty_floats()
        city, device = self.city_and_device
        truth.levels(self.seed, self.user, city, device, world.city, world.device, level)
        truth.main_effects(self.quality, level, part)
        return part

    @cached_property
    def match(self) -> Floats:
        """Similarity of the item to the user's last behaviors; 0 for data without sequences."""
        if not self.world.spec.sequences:
            return np.zeros(self.stop - self.start)
        match, length = self._empty_floats(), self.world.spec.sequence_length
        brand = self.item_features[0]
        histories = truth.Histories(self.user, self.slots, self.scenario, self.category, brand)
        truth.matches(self.seed, length, histories, self.world.truth.decay_S, self._catalog, match)
        return match

    @cached_property
    def parts(self) -> Floats:
        """Raw components of the logit before calibration, in the order of `truth.PARTS` (5, B)."""
        return np.stack([self.level, *self._contents[1], self.match])

    @cached_property
    def residual(self) -> Floats:
        """Residual of the logit, which no feature explains."""
        residual = self._empty_floats()
        truth.residuals(self.seed, self.user, self.item, residual)
        return residual
