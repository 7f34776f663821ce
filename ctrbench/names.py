"""Every column, split and metric name, written once.

Files on disk, frames in memory and tables in reports all use these; a string literal for any of them elsewhere is a
defect.
"""

from __future__ import annotations

from enum import StrEnum


class Split(StrEnum):
    """The three parts of a dataset; 4 : 1 : 1 in time, or by a hashed key."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


class Column:
    """Columns of prepared shards, of domain tables and of predictions."""

    ROW = "row"
    """int64, the row's place in the raw data; unique over all splits."""
    LABEL = "label"
    """int8, 0 or 1."""
    TIME = "time"
    """int64, in the raw data's own unit; absent where the card names no timestamp."""
    PROBABILITY = "probability"
    """The true click probability; only where it is known."""
    CEILING = "ceiling"
    """The click probability given all that a model could learn of the row; only of generated data."""
    DOMAIN = "domain"
    """int32, id of the composite domain; 0 = not seen in training."""
    USER = "user"
    """int32, encoded user id, for metrics grouped by user; 0 = not seen in training."""
    SCORE = "score"
    """float32, the logit."""


class DomainColumn:
    """Further columns of a domain table; one row a domain, the unseen domain 0 included."""

    KEY = "key"
    """utf8, the raw values of the domain features, joined by ' · '."""
    ROWS = "rows_{split}"
    POSITIVES = "positives_{split}"


class Metric:
    """Names under which metrics stand in records and tables."""

    LOGLOSS = "logloss"
    NE = "ne"
    AUC = "auc"
    GAUC = "gauc"
    GAUC_COVERAGE = "gauc_coverage"
    GAUC_UNWEIGHTED = "gauc_unweighted"
    USER_GAUC = "user_gauc"
    USER_GAUC_COVERAGE = "user_gauc_coverage"
    PCOC = "pcoc"
    PCOC_ERROR = "pcoc_error"
    """Impression-weighted mean of |PCOC_d - 1| over domains with a positive."""
    PCOC_COVERAGE = "pcoc_coverage"
    EXPECTED_LOGLOSS = "expected_logloss"
    """Mean cross-entropy against the true probability: no label noise."""


UNSEEN = 0
"""Id of an unseen value or an unseen domain."""
