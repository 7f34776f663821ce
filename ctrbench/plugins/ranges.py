"""Ranges of settings that tuning tries, which a method declares in the annotations of its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

Value = bool | int | float | str | None
"""Value of a tuned setting; tuples, such as widths, are texts: `128-64`."""


class SearchRange(ABC):
    """Values of a setting that tuning tries."""

    @abstractmethod
    def describe(self) -> str:
        """Return the range for listings and pages."""


@dataclass(frozen=True, init=False)
class Choices(SearchRange):
    """One of several values: `Annotated[int, Choices(2, 4, 8)]`."""

    values: tuple[Value, ...]

    def __init__(self, *values: Value) -> None:
        """Raise `ValueError` for fewer than two values, or equal ones."""
        if len(set(values)) < max(2, len(values)):
            raise ValueError("choices must be two or more different values")
        object.__setattr__(self, "values", values)

    def describe(self) -> str:
        """Return the values, separated by commas.

        >>> Choices(0.0, 0.1, None).describe()
        '0, 0.1, none'
        """
        return ", ".join(_text(value) for value in self.values)


@dataclass(frozen=True)
class LogRange(SearchRange):
    """A number between two positive bounds, uniform in its logarithm: `Annotated[float, LogRange(1e-4, 1e-2)]`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError("a logarithmic range must have bounds 0 < low < high")

    def describe(self) -> str:
        """Return the bounds.

        >>> LogRange(0.0003, 0.01).describe()
        '0.0003 to 0.01, logarithmic'
        """
        return f"{self.low:g} to {self.high:g}, logarithmic"


def _text(value: Value) -> str:
    if value is None:
        return "none"
    return (
        f"{value:g}"
        if isinstance(value, float)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
