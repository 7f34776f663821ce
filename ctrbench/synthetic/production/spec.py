"""What a Production-scale dataset is: its size, its seed and its options (spec: production-9.3 to production-9.9).

Rows, domains and vocabularies scale together; the presets are those of spec: production-9.9, and `spec_for` keeps their
rule for any other number of rows. A spec and the constants of its calibration settle every row, so both are small, can
be written as JSON, and go to every worker.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ctrbench.errors import SettingError, did_you_mean

DATA_VERSION: Literal[1] = 1
"""Raised whenever the same spec would give other rows."""

Interaction = Literal["bilinear", "mlp", "tree"]

NUM_SCENARIOS, NUM_POSITIONS, NUM_PAIRS = 10, 18, 60
NUM_GENDERS, NUM_AGES, NUM_LEVELS = 3, 8, 4
NUM_PROFILES = NUM_GENDERS * NUM_AGES * NUM_LEVELS
NUM_CANDIDATES = NUM_PAIRS * NUM_PROFILES
NUM_RESERVED, RESERVED_SHARE = 40, 0.001
"""Tuples that appear in the last sixth only, and their share of its rows."""
MAX_DOMAINS, MIN_DOMAINS = 5_000, 50
ROWS_PER_DOMAIN = 42_500
"""Leaves 30 test clicks to an average domain of the tail."""
ROWS_PER_USER, ROWS_PER_ITEM, ITEMS_PER_SHOP = 20, 200, 50
MAX_CATEGORIES, MIN_CATEGORIES, ITEMS_PER_CATEGORY = 2_000, 20, 50
SHARD_ROWS = 1 << 20
CALIBRATION_ROWS = 1 << 22
MIN_ROWS = 1_000
MAX_ROWS = 1 << 40


class ProductionSpec(BaseModel):
    """Everything that settles a dataset but the constants of its calibration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(ge=MIN_ROWS, le=MAX_ROWS)
    domains: int = Field(ge=2, le=NUM_CANDIDATES - NUM_RESERVED)
    days: int = Field(default=6, ge=6, le=600, multiple_of=6)
    """The first four sixths are training, then dev, then test."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    interaction: Interaction = "bilinear"
    """Form of the structured domain × content part."""
    null: Literal["strict"] | bool = False
    """The two parts of the logit that join domain and content are left out.

    What else joins domain features stays: levels of whole tuples, a profile's categories and taste, a scenario's decay,
    drift and tilt of categories. Strict leaves these out too: each domain feature has a level, levels add up, and
    nothing else depends on them but the few users that a cell of other features happens to have. What is left of the
    shared part is scaled up to the variance that it had."""
    long_tail: bool = False
    """The last tenth of the domains shrinks geometrically, to 200 rows at full scale."""
    sequences: bool = False
    """Whether behaviours are among the fields; they move clicks either way."""
    sequence_length: int = Field(default=50, ge=1, le=200)
    users: int | None = Field(default=None, ge=NUM_PROFILES, lt=1 << 31)
    """One to 20 rows when not given."""
    items: int | None = Field(default=None, ge=MIN_CATEGORIES, lt=1 << 31)
    """One to 200 rows when not given."""
    bid_quality_corr: float = Field(default=0.0, ge=-1.0, le=1.0)
    """Correlation of log bids with the quality of the item."""
    calibration_rows: int = Field(default=CALIBRATION_ROWS, ge=1 << 14)
    shard_rows: int = Field(default=SHARD_ROWS, ge=1 << 10)
    """Of one file; rows do not depend on it."""
    data_version: Literal[1] = DATA_VERSION

    @model_validator(mode="after")
    def _ids_fit(self) -> ProductionSpec:
        if max(self.num_users, self.num_items) >= 1 << 31:
            raise ValueError("users and items are numbered in 31 bits: give users and items of your own")
        return self

    @property
    def num_users(self) -> int:
        """Users there are, whether rows show them or not."""
        return self.users or max(self.rows // ROWS_PER_USER, 2 * NUM_PROFILES)

    @property
    def num_items(self) -> int:
        """Items there are, whether rows show them or not."""
        return self.items or max(self.rows // ROWS_PER_ITEM, 5 * MIN_CATEGORIES)

    @property
    def num_categories(self) -> int:
        """2,000 categories; fewer where they would hold fewer than 50 items each."""
        return min(MAX_CATEGORIES, max(MIN_CATEGORIES, self.num_items // ITEMS_PER_CATEGORY))

    @property
    def num_shops(self) -> int:
        """Shops, which are the advertisers."""
        return max(1, self.num_items // ITEMS_PER_SHOP)

    @property
    def num_shards(self) -> int:
        """Files of `shard_rows` rows; the last one may be smaller."""
        return -(-self.rows // self.shard_rows)

    @property
    def cuts(self) -> tuple[int, int]:
        """Rows where dev and test begin."""
        return self.first_row(4 * self.days // 6), self.first_row(5 * self.days // 6)

    def first_row(self, day: int) -> int:
        """Return the first row of a day: row r lies (r + 1/2) / rows of the way through all days."""
        return -(-(2 * self.rows * day - self.days) // (2 * self.days))


PRESETS = {
    "unit": ProductionSpec(rows=1 << 18, domains=50, calibration_rows=1 << 18),
    "small": ProductionSpec(rows=20_000_000, domains=470),
    "medium": ProductionSpec(rows=200_000_000, domains=4_700),
    "full": ProductionSpec(rows=2_200_000_000, domains=MAX_DOMAINS),
}
"""spec: production-9.9."""


def preset(name: str) -> ProductionSpec:
    """Return the preset of that name, or say which name is near."""
    if name not in PRESETS:
        raise SettingError("no such preset", value=name, remedy=did_you_mean(name, PRESETS))
    return PRESETS[name]


def spec_for(rows: int) -> ProductionSpec:
    """Return the spec of any number of rows: 5,000 domains, or as many tens as keep 42,500 rows each, 50 at least.

    >>> spec_for(20_000_000) == preset("small"), spec_for(2_200_000_000) == preset("full")
    (True, True)
    """
    most = ROWS_PER_USER * ((1 << 31) - 1)
    if not MIN_ROWS <= rows <= most:
        raise SettingError(f"rows lie between {MIN_ROWS:,} and {most:,}", value=f"{rows:,}")
    domains = min(MAX_DOMAINS, max(MIN_DOMAINS, rows // ROWS_PER_DOMAIN // 10 * 10))
    return ProductionSpec(
        rows=rows, domains=domains, calibration_rows=min(CALIBRATION_ROWS, max(1 << 18, rows // 2))
    )
