"""The streams of randomness of the Production-scale data, one a quantity (spec: production-9.2).

A stream is half of the generator's key: two quantities never share one, and a changed distribution takes a new number
here or raises the data version. What `a` counts is said by the stream's group: rows, users, items, places in a table.
"""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """Second word of the key; a number is given once and for all."""

    # Rows: a = row, b = the draw (0 the data, 1 the calibration).
    ROW_DOMAIN = 1
    ROW_USER = 2
    ROW_ITEM = 3
    ROW_CONTEXT = 4
    ROW_LABEL = 5

    # Users: a = user, before its id is permuted.
    USER = 20
    USER_FEATURES = 21
    USER_NOISE = 22
    USER_TASTE = 23
    INTEREST_PHASE = 24
    INTEREST = 25
    """b = 2^30 j + stint."""
    BEHAVIOUR = 26
    """b = slot // 4; a word a slot."""
    BEHAVIOUR_ITEM = 27
    """b = slot."""
    BEHAVIOUR_NEGATIVE = 28
    """b = slot."""
    RESIDUAL = 29
    """b = item."""

    # Items and their makers: a = item, brand or shop, before its id is permuted.
    ITEM = 40
    ITEM_FEATURES = 41
    ITEM_CONTENT = 42
    BRAND = 43
    SHOP = 44
    BID = 45
    """a = shop, b = day."""

    # Tables: a = place in the table.
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
    RELEVANCE = 73
    IDIOSYNCRATIC = 74
    CATEGORY_CONTENT = 75
    CATEGORY_QUALITY = 76
    PROFILE_TASTE = 77
    PROFILE_CATEGORY = 78
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
    """Of strict null data alone, as the two before."""

    # Keys of permutations of ids.
    ID_USER = 100
    ID_ITEM = 101
    ID_CATEGORY = 102
    ID_SHOP = 103
    ID_CITY = 104
    ID_DEVICE = 105
    ID_SCENARIO = 106
    ID_POSITION = 107
