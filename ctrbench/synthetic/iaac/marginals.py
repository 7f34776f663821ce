"""Marginals of the IAAC data that the twin reproduces: counts per level, days and hours, and fitted distributions.

Counts are those of round 1, rounded to three digits. Fields with thousands of ids follow a Zipf-Mandelbrot
distribution: exponent and offset minimize, on a grid, the largest difference between the cumulative row shares of the
distribution and of the data at ranks 1, 2, 4, 11, 31, 101, 301, 1001, 3001 and the last; the number of ids reproduces
the known number of distinct ids in 478,138 draws. Assumptions: the exponents of users and queries, of which only the
number of distinct values is known, and the growth of the number of ids with the number of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REFERENCE_ROWS = 478_138
"""Rows of round 1, to which the distributions were fitted."""
MISSING_PROFILES = 964 / REFERENCE_ROWS
"""Share of rows in which age, star and occupation are missing, always together."""
UNKNOWN_BRANDS = 473 / REFERENCE_ROWS
UNKNOWN_CITIES = 277 / REFERENCE_ROWS

Levels = dict[int, int]
"""Number of rows per level."""


def _make_levels(first: int, counts: str) -> Levels:
    """Return the counts of consecutive levels, starting at `first`; levels without rows are omitted."""
    counts_by_level = enumerate(map(int, counts.split()), start=first)
    return {level: count for level, count in counts_by_level if count}


GENDERS = _make_levels(-1, "12900 361000 94100 10300")
AGES = _make_levels(1000, "13000 6450 70200 169000 126000 56600 30200 5220")
OCCUPATIONS = _make_levels(2002, "147000 6420 23800 300000")
STARS = _make_levels(3000, "31300 19300 62900 74600 61800 67400 82000 53300 20200 4120 179")
PRICES = _make_levels(0, "12 85 347 3590 14600 41100 89100 209000 116000 4040 456 21 0 0 0 0 1 1")
SALES = _make_levels(
    -1,
    "913 0 501 950 1840 3230 5740 11000 18000 27000 39600 57700 80400 87000 64500 44500 22200 11100 1960",
)
COLLECTED = _make_levels(
    0, "279 267 492 939 1740 2800 5370 10400 16400 24000 42100 53000 84600 84000 73800 46400 20400 11100"
)
VIEWS = _make_levels(
    0,
    "123 1 5 11 33 63 116 245 449 913 1840 3880 7290 13800 25500 41500 62400 84400 102000 81300 42800 9320",
)
REVIEWS = _make_levels(
    0,
    "7 20 87 80 266 578 1340 1850 3090 5480 8600 14000 18700 31100 50700 66000 79300 81400 50600 16200 24900 22900"
    " 619 353 0 4",
)
SHOP_STARS = _make_levels(
    4999,
    "7 81 60 477 1270 863 1460 3090 5500 8480 18200 24500 34400 73600 82600 81600 74000 19200 23200 25100 70 357",
)
PAGES = _make_levels(
    4001,
    "267000 43800 31500 24100 18800 15100 12400 10400 9010 7470 6370 5800 4890 4230 3820 3370 3000 2540 2240 1940",
)
CATEGORIES = _make_levels(0, "151000 102000 75400 72000 53100 9560 7080 2250 1970 1910 1210 186 123 88")
DEEP_CATEGORIES = (9, 12)
"""The two category lists with three entries; the others have two."""
HOURS = _make_levels(
    0,
    "10795 4486 2464 1889 1564 2336 5388 11014 15481 19925 24324 24082 24667 27497 27218 26868 24562 23450 25358"
    " 33733 41118 42751 35973 21168",
)


@dataclass(frozen=True, kw_only=True)
class Day:
    """Day of a round: first second, rows, label rate and hours."""

    round: int
    start: int
    rows: int
    rate: float
    hours: int = 24


FIRST_DAY = 1_535_644_800
"""31 August 2018, 00:00 in Beijing, as Unix time."""
ROUND1_DAYS = (78261, 70927, 68384, 71195, 68315, 63611, 57418)
ROUND1_RATE = 9021 / REFERENCE_ROWS
ROUND2_DAYS = (
    (1195557, 15349),
    (1340697, 18246),
    (1289476, 17137),
    (1236828, 15309),
    (1157641, 13159),
    (1200219, 11729),
    (1934443, 10635),
    (1077175, 49646),
)
"""Rows and positives per day; the last day is a sales event and ends at noon."""

DAYS = (
    *(
        Day(
            round=2,
            start=FIRST_DAY + 86_400 * day,
            rows=rows,
            rate=positives / rows,
            hours=24 if day < 7 else 12,
        )
        for day, (rows, positives) in enumerate(ROUND2_DAYS)
    ),
    *(
        Day(round=1, start=FIRST_DAY + 86_400 * (18 + day), rows=rows, rate=ROUND1_RATE)
        for day, rows in enumerate(ROUND1_DAYS)
    ),
)
"""Days in chronological order; round 2 precedes round 1."""
ROUND_ROWS = {1: 478_138, 2: 10_432_036}


@dataclass(frozen=True, kw_only=True)
class ZipfMandelbrot:
    """Zipf-Mandelbrot distribution of rows over ids: shares proportional to (rank + offset) ** -exponent."""

    exponent: float
    offset: float
    ids: int
    """Number of ids at `REFERENCE_ROWS` rows."""
    growth: float
    """Exponent of growth: the number of ids is proportional to rows ** growth."""

    def size(self, rows: int) -> int:
        """Return the number of ids for a number of rows."""
        return max(64, round(self.ids * math.pow(rows / REFERENCE_ROWS, self.growth)))

    def shares(self, size: int) -> Floats:
        """Return the row share of each rank."""
        weights: Floats = np.power(np.arange(1.0, size + 1.0) + self.offset, -self.exponent)
        return normalized(weights)


ITEMS = ZipfMandelbrot(exponent=1.85, offset=320, ids=10_298, growth=0.3)
SHOPS = ZipfMandelbrot(exponent=1.6, offset=80, ids=3_960, growth=0.25)
BRANDS = ZipfMandelbrot(exponent=1.6, offset=40, ids=2_054, growth=0.2)
TOP_BRAND = 0.146
CITIES = ZipfMandelbrot(exponent=3.4, offset=10, ids=127, growth=0.0)
TOP_CITY = 0.324
"""Row shares of the largest brand and the largest city; the distributions describe the others."""
USERS = ZipfMandelbrot(exponent=0.5, offset=0, ids=262_745, growth=0.75)
QUERIES = ZipfMandelbrot(exponent=0.7, offset=0, ids=84_496, growth=0.7)
PROPERTIES = ZipfMandelbrot(exponent=0.9, offset=0, ids=12_000, growth=0.2)


def brand_shares(rows: int) -> Floats:
    """Return the row share of each brand."""
    return np.concatenate([[TOP_BRAND], (1 - TOP_BRAND) * BRANDS.shares(BRANDS.size(rows))])


def city_shares(rows: int) -> Floats:
    """Return the row share of each city."""
    return np.concatenate([[TOP_CITY], (1 - TOP_CITY) * CITIES.shares(CITIES.size(rows))])


def normalized(weights: Floats) -> Floats:
    """Return the weights divided by their sum."""
    return weights / float(weights.sum())


def shares(levels: Levels) -> Floats:
    """Return the share of each level, in the order of the levels."""
    return normalized(np.array(list(levels.values()), dtype=np.float64))
