"""Names of columns and splits, for files on disk, frames in memory and tables in reports.

No other module contains one of these names as a string literal. Each metric is named in its own file, in
`ctrbench/eval/metrics`.
"""

from __future__ import annotations

from enum import StrEnum


class Split(StrEnum):
    """The three parts of a dataset, split 4 : 1 : 1 by time or by a hashed key."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


class Column:
    """Columns of prepared shards, of domain tables and of predictions."""

    ROW = "row"
    """int64, index of the row in the raw data; unique over all splits."""
    LABEL = "label"
    """int8, 0 or 1."""
    TIME = "time"
    """int64, in the unit of the raw data; absent if the card has no timestamp."""
    PROBABILITY = "probability"
    """The true click probability; absent if it is unknown."""
    CEILING = "ceiling"
    """The click probability given everything that a model could learn; only in generated data."""
    DOMAIN = "domain"
    """int32, id of the composite domain; 0 for domains without a training row."""
    USER = "user"
    """int32, encoded user id, for metrics grouped by user; 0 for users without a training row."""
    USER_KEY = "user_key"
    """int64, hash of the user's raw value, so that users without a training row differ; absent without users."""
    SCORE = "score"
    """float32, the logit."""


class DomainColumn:
    """Further columns of a domain table, which has one row per domain, including domain 0 (unseen)."""

    KEY = "key"
    """Text, the raw values of the domain features, joined by ' · '."""
    ROWS = "rows_{split}"
    POSITIVES = "positives_{split}"


UNSEEN = 0
"""Id of values and domains without a training row."""
