"""Random streams of the Production-scale data, one per quantity (spec: production-9.2).

The stream is one of the two words of the key of the random number generator, so two quantities never share one. A
changed distribution takes a new stream or raises the data version. The comment above each group says which index `a`
stands for: row, user, item or index in a table.
"""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """Second word of the key; the numbers never change."""

    # Rows: a = row, b = draw (0: data, 1: calibration).
    ROW_DOMAIN = 1
    ROW_USER = 2
    ROW_ITEM = 3
    ROW_CONTEXT = 4
    ROW_LABEL = 5

    # Users: a = user index, before the permutation of ids.
    USER = 20
    USER_FEATURES = 21
    USER_NOISE = 22
    USER_TASTE = 23
    INTEREST_PHASE = 24
    INTEREST = 25
    """b = 2^30 j + stint."""
    BEHAVIOR = 26
    """b = slot // 4; one word per slot."""
    BEHAVIOR_ITEM = 27
    """b = slot."""
    BEHAVIOR_NEGATIVE = 28
    """b = slot."""
    RESIDUAL = 29
    """b = item."""

    # Items, brands and shops: a = index of the item, brand or shop, before the permutation of ids.
    ITEM = 40
    ITEM_FEATURES = 41
    ITEM_CONTENT = 42
    BRAND = 43
    SHOP = 44
    BID = 45
    """a = shop, b = day."""
    BRAND_CONTENT = 46

    # Tables: a = index in the table.
    VALID_PAIR = 60
    PROFILE_WEIGHT = 61
    POPULARITY = 62
    PHASE = 63
    SCENARIO_CATEGORY = 64
    LEVEL_SCENARIO = 65
    LEVEL_POSITION = 66
    LEVEL_PROFILE = 67
    LEVEL_TUPLE = 68
    DRIFT = 69
    FACTOR_SCENARIO = 70
    FACTOR_POSITION = 71
    FACTOR_PROFILE = 72
    """a = gender, age or level, numbered consecutively."""
    RELEVANCE = 73
    IDIOSYNCRATIC = 74
    CATEGORY_CONTENT = 75
    CATEGORY_QUALITY = 76
    PROFILE_TASTE = 77
    """a = gender, age or level, numbered consecutively."""
    CITY_LEVEL = 79
    DEVICE_LEVEL = 80
    DECAY = 81
    MLP_DOMAIN = 82
    MLP_CONTENT = 83
    MLP_OFFSET = 84
    MLP_OUT = 85
    TREE_SPLIT = 86
    TREE_VALUE = 87
    LEVEL_GENDER = 88
    LEVEL_AGE = 89
    LEVEL_LEVEL = 90
    """Used by null data only, like the two above."""
    CITY_TASTE = 91

    # Keys of permutations of ids.
    ID_USER = 100
    ID_ITEM = 101
    ID_CATEGORY = 102
    ID_SHOP = 103
    ID_CITY = 104
    ID_DEVICE = 105
    ID_SCENARIO = 106
    ID_POSITION = 107
