"""Specification of a Production-scale dataset: size, seed and options (spec: production-9.3 to production-9.9).

Rows, domains and vocabularies scale together. The named sizes are those of spec: production-9.9; `spec_for` applies the
same rule to any other number of rows. A spec and its calibration constants determine every row; both are small, can be
written as JSON and are sent to every worker.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ctrbench.errors import SettingError, did_you_mean, shorten

DATA_VERSION: Literal[1] = 1
"""Version of the generator; increased when the same spec generates different rows."""

Interaction = Literal["bilinear", "mlp", "tree"]

NUM_SCENARIOS, NUM_POSITIONS, NUM_PAIRS = 10, 18, 60
NUM_GENDERS, NUM_AGES, NUM_LEVELS = 3, 8, 4
NUM_PROFILES = NUM_GENDERS * NUM_AGES * NUM_LEVELS
NUM_CANDIDATES = NUM_PAIRS * NUM_PROFILES
NUM_RESERVED, RESERVED_SHARE = 40, 0.001
"""Number of domain tuples that appear only in the last sixth, and their share of its rows."""
MAX_DOMAINS, MIN_DOMAINS = 5_000, 50
ROWS_PER_DOMAIN = 42_500
"""Gives an average domain of the tail 30 test clicks."""
ROWS_PER_USER, ROWS_PER_ITEM, ITEMS_PER_SHOP = 20, 200, 50
MAX_CATEGORIES, MIN_CATEGORIES, ITEMS_PER_CATEGORY = 2_000, 20, 50
NUM_CITIES, NUM_DEVICES = 400, 6
NUM_PAGES, NUM_NETWORKS = 10, 4
NUM_BRANDS = 10
"""Brands per category; a brand belongs to one category."""
NUM_PRICES, NUM_CREATIVES = 10, 5
NOISE_SIZES = (5, 20, 80, 320)
SHARD_ROWS = 1 << 20
CALIBRATION_ROWS = 1 << 22
MIN_ROWS = 1_000
MAX_ROWS = 1 << 40


class ProductionSpec(BaseModel):
    """Complete specification of a dataset, except for its calibration constants."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(ge=MIN_ROWS, le=MAX_ROWS)
    domains: int = Field(ge=2, le=NUM_CANDIDATES - NUM_RESERVED)
    days: int = Field(default=6, ge=6, le=600, multiple_of=6)
    """The first four sixths are the training split, the fifth is dev, the last is test."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    interaction: Interaction = "bilinear"
    """Form of the structured domain × content component."""
    null: Literal["strict"] | bool = False
    """Whether the two components of the logit that depend on domain × content are omitted.

    Other effects of domain features remain: levels of whole tuples, preferences and taste of profiles, decay, drift and
    category tilt of scenarios. `"strict"` omits these as well: each domain feature has a level, levels are additive,
    and no other term depends on domain features, except through the users of a profile. The remaining terms of the
    shared component are rescaled to its full variance."""
    long_tail: bool = False
    """Whether the sizes of the last tenth of the domains decrease geometrically, to 200 rows at full scale."""
    sequences: bool = False
    """Whether behavior sequences are fields; behaviors affect clicks in both cases."""
    sequence_length: int = Field(default=50, ge=1, le=200)
    users: int | None = Field(default=None, ge=NUM_PROFILES, lt=1 << 31)
    """Default: one user per 20 rows."""
    items: int | None = Field(default=None, ge=MIN_CATEGORIES, lt=1 << 31)
    """Default: one item per 200 rows."""
    bid_quality_corr: float = Field(default=0.0, ge=-1.0, le=1.0)
    """Correlation of log bids with item quality."""
    calibration_rows: int = Field(default=CALIBRATION_ROWS, ge=1 << 14, le=1 << 26)
    shard_rows: int = Field(default=SHARD_ROWS, ge=1 << 10, le=1 << 26)
    """Rows per shard; the generated values do not depend on it."""
    data_version: Literal[1] = DATA_VERSION

    @model_validator(mode="after")
    def _check_id_bits(self) -> ProductionSpec:
        if max(self.num_users, self.num_items) >= 1 << 31:
            raise ValueError("users and items must be below 2,147,483,648; set them to smaller numbers")
        return self

    @property
    def num_users(self) -> int:
        """Number of users, including those without rows."""
        return self.users or max(self.rows // ROWS_PER_USER, 2 * NUM_PROFILES)

    @property
    def num_items(self) -> int:
        """Number of items, including those without rows."""
        return self.items or max(self.rows // ROWS_PER_ITEM, 5 * MIN_CATEGORIES)

    @property
    def num_categories(self) -> int:
        """Number of categories: at most 2,000, with 50 or more items each."""
        return min(MAX_CATEGORIES, max(MIN_CATEGORIES, self.num_items // ITEMS_PER_CATEGORY))

    @property
    def num_shops(self) -> int:
        """Number of shops; shops are the advertisers."""
        return max(1, self.num_items // ITEMS_PER_SHOP)

    @property
    def num_shards(self) -> int:
        """Number of shards of `shard_rows` rows; the last one may be smaller."""
        return -(-self.rows // self.shard_rows)

    @property
    def cuts(self) -> tuple[int, int]:
        """First rows of dev and of test."""
        return self.first_row(4 * self.days // 6), self.first_row(5 * self.days // 6)

    def first_row(self, day: int) -> int:
        """Return the first row of a day; row r lies at the fraction (r + 1/2) / rows of all days."""
        return -(-(2 * self.rows * day - self.days) // (2 * self.days))


SIZES = {
    "unit": ProductionSpec(rows=1 << 18, domains=50, calibration_rows=1 << 18),
    "small": ProductionSpec(rows=20_000_000, domains=470),
    "medium": ProductionSpec(rows=200_000_000, domains=4_700),
    "full": ProductionSpec(rows=2_200_000_000, domains=MAX_DOMAINS),
}
"""Named sizes (spec: production-9.9)."""


def spec_of_size(name: str) -> ProductionSpec:
    """Return the spec of a named size; an unknown name raises `SettingError` with the nearest name."""
    if name not in SIZES:
        raise SettingError("unknown size", value=name, remedy=did_you_mean(name, SIZES))
    return SIZES[name]


def spec_for(rows: int) -> ProductionSpec:
    """Return the spec for a number of rows.

    The number of domains is the largest multiple of 10 with at least 42,500 rows per domain, between 50 and 5,000.

    >>> spec_for(20_000_000) == spec_of_size("small"), spec_for(2_200_000_000) == spec_of_size("full")
    (True, True)
    """
    max_rows = ROWS_PER_USER * ((1 << 31) - 1)
    if not MIN_ROWS <= rows <= max_rows:
        raise SettingError(f"rows must lie between {MIN_ROWS:,} and {max_rows:,}", value=shorten(f"{rows:,}"))
    domains = min(MAX_DOMAINS, max(MIN_DOMAINS, rows // ROWS_PER_DOMAIN // 10 * 10))
    return ProductionSpec(
        rows=rows, domains=domains, calibration_rows=min(CALIBRATION_ROWS, max(1 << 18, rows // 2))
    )
