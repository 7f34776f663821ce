"""Specification of a Production-scale dataset: size, seed and options (spec: production-9.3 to production-9.9).

Rows, domains and vocabularies scale together, so the mean number of rows per user, item, category, brand and shop is
the same at every size. The named sizes are those of spec: production-9.9; `spec_for` applies the same rule to any
other number of rows. A spec and its calibration constants determine every row; both are small, can be
written as JSON and are sent to every worker.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ctrbench.errors import SettingError, did_you_mean, shorten

DATA_VERSION: Literal[2] = 2
"""Version of the generator; increased when the same spec generates different rows."""

Interaction = Literal["bilinear", "mlp", "tree"]

NUM_SCENARIOS, NUM_POSITIONS, NUM_PAIRS = 10, 18, 60
NUM_GENDERS, NUM_AGES, NUM_LEVELS = 3, 8, 4
NUM_PROFILES = NUM_GENDERS * NUM_AGES * NUM_LEVELS
NUM_CANDIDATES = NUM_PAIRS * NUM_PROFILES
NUM_RESERVED, RESERVED_SHARE = 40, 0.001
"""Number of domain tuples that appear only in the last sixth, and their share of its rows."""
MAX_DOMAINS, MIN_DOMAINS = 5_000, 50
ROWS_PER_DOMAIN = 10_800
"""Gives an average domain of the tail 30 test clicks at the default click rate."""
CLICK_RATE = 0.05
ROWS_PER_USER, ROWS_PER_ITEM, ITEMS_PER_SHOP = 200, 500, 20
MAX_CATEGORIES, MIN_CATEGORIES, ITEMS_PER_CATEGORY = 2_000, 20, 50
NUM_CITIES, NUM_DEVICES = 100, 6
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
    null: bool = False
    """Whether the logit is the sum of the levels of its fields, without interactions.

    Levels of whole domain tuples, taste, domain × content and behaviors are omitted, as well as the drift and the
    category tilt of scenarios."""
    long_tail: bool = False
    """Whether the sizes of the last tenth of the domains decrease geometrically, to 200 rows at full scale."""
    sequences: bool = False
    """Whether behavior sequences are fields; only then do behaviors affect clicks."""
    sequence_length: int = Field(default=50, ge=1, le=200)
    click_rate: float = Field(default=CLICK_RATE, ge=0.001, le=0.5)
    """Mean click probability."""
    rows_per_user: int = Field(default=ROWS_PER_USER, ge=10, le=100_000)
    """Mean number of rows per user, in all splits; gives the number of users unless `users` is set."""
    rows_per_item: int = Field(default=ROWS_PER_ITEM, ge=10, le=100_000)
    """Mean number of rows per item, in all splits; gives the number of items unless `items` is set."""
    users: int | None = Field(default=None, ge=NUM_PROFILES, lt=1 << 31)
    items: int | None = Field(default=None, ge=MIN_CATEGORIES, lt=1 << 31)
    bid_quality_corr: float = Field(default=0.0, ge=-1.0, le=1.0)
    """Correlation of log bids with item quality."""
    calibration_rows: int = Field(default=CALIBRATION_ROWS, ge=1 << 14, le=1 << 26)
    shard_rows: int = Field(default=SHARD_ROWS, ge=1 << 10, le=1 << 26)
    """Rows per shard; the generated values do not depend on it."""
    data_version: Literal[2] = DATA_VERSION

    @model_validator(mode="after")
    def _check_id_bits(self) -> ProductionSpec:
        if max(self.num_users, self.num_items) >= 1 << 31:
            raise ValueError("users and items must be below 2,147,483,648; set them to smaller numbers")
        return self

    @property
    def num_users(self) -> int:
        """Number of users, including those without rows."""
        return self.users or max(self.rows // self.rows_per_user, 2 * NUM_PROFILES)

    @property
    def num_items(self) -> int:
        """Number of items, including those without rows."""
        return self.items or max(self.rows // self.rows_per_item, 5 * MIN_CATEGORIES)

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
    "200k": ProductionSpec(rows=200_000, domains=50, calibration_rows=1 << 18),
    "2m": ProductionSpec(rows=2_000_000, domains=180, calibration_rows=1_000_000),
    "20m": ProductionSpec(rows=20_000_000, domains=1_850),
    "200m": ProductionSpec(rows=200_000_000, domains=MAX_DOMAINS),
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

    The number of domains is the largest multiple of 10 with at least 10,800 rows per domain, between 50 and 5,000.

    >>> spec_for(20_000_000) == spec_of_size("20m"), spec_for(2_200_000_000) == spec_of_size("full")
    (True, True)
    """
    max_rows = ROWS_PER_USER * ((1 << 31) - 1)
    if not MIN_ROWS <= rows <= max_rows:
        raise SettingError(f"rows must lie between {MIN_ROWS:,} and {max_rows:,}", value=shorten(f"{rows:,}"))
    domains = min(MAX_DOMAINS, max(MIN_DOMAINS, rows // ROWS_PER_DOMAIN // 10 * 10))
    return ProductionSpec(
        rows=rows, domains=domains, calibration_rows=min(CALIBRATION_ROWS, max(1 << 18, rows // 2))
    )
