"""Metrics as records store them: columns per domain and one value per bin, each metric by its name."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
