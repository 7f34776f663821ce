"""Metrics as records store them: columns per domain, one value per bin, influence per cluster of test rows."""

from __future__ import annotations

from base64 import b64decode
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class DomainMetrics(BaseModel):
    """Test rows of each domain and their metrics, as columns of equal length.

    Every domain of the training split has a row, and so has the unseen domain 0, with test rows or without.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: tuple[int, ...]
    rows_train: tuple[int, ...]
    rows: tuple[int, ...]
    """Test rows."""
    positives: tuple[int, ...]
    metrics: dict[str, tuple[float | None, ...]] = {}
    """Column of each metric, by name: values with eight significant digits, None where undefined."""


class BinMetrics(BaseModel):
    """Test rows of one bin of domains and their metrics; BIN1 holds the largest domains (spec: longtail-8.6)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bin: int
    domains: int
    """Domains of the bin, with test rows or without."""
    rows_train: int
    rows: int
    """Test rows."""
    positives: int
    metrics: dict[str, float | None] = {}
    """By name; None = undefined, or unknown where the predictions are unavailable."""


class PackedNumbers(BaseModel):
    """Numbers as 16-bit integers times a scale, in base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(ge=0, le=1e6)
    integers: str
    """Base64 of little-endian integers from -32767 to 32767."""

    @property
    def num(self) -> int:
        """The number of integers."""
        return len(b64decode(self.integers, validate=True)) // 2

    @field_validator("integers")
    @classmethod
    def _check_integers(cls, text: str) -> str:
        if len(b64decode(text, validate=True)) % 2:
            raise ValueError("must be the base64 of 16-bit integers")
        return text


class ClusterInfluence(BaseModel):
    """Influence of each cluster of test rows on metrics, from which uncertainty over users is computed.

    See `eval.influence`. Clusters are numbered in the order of their keys; runs with the same digest have the same
    clusters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clusters: Literal["users", "rows"]
    """Test users, or single test rows where the data have no users."""
    num_keys: int
    """Number of users (or rows); more than the number of clusters where clusters were merged."""
    digest: str
    """Start of the sha256 of the cluster of each row."""
    metrics: dict[str, PackedNumbers]
    """One number per cluster, by metric; metrics that are undefined are left out."""

    @model_validator(mode="after")
    def _check_sizes(self) -> ClusterInfluence:
        if len({numbers.num for numbers in self.metrics.values()}) > 1:
            raise ValueError("all metrics must have the same number of clusters")
        return self
