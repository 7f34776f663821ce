"""The base class of all settings of plug-ins: frozen, typed, and refused where they have no effect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from ctrbench.added_fields import unchanged_added_fields

MAX_NUMBER = 1_000_000_000
"""Largest absolute value of a number among the settings of a plug-in."""


class Settings(BaseModel):
    """Settings of a plug-in: frozen, typed, each with a default and a documentation string.

    A setting is an annotated class attribute. The string below it is its documentation, which `docs/methods` shows; a
    built-in setting without one fails the tests. The command line sets it as `name[setting=value,…]`. Unknown settings,
    values of a wrong type and settings without effect are refused. So are infinite numbers and those beyond ± 10⁹; a
    number that decides on time or memory, such as a width or a number of layers, declares a smaller bound of its own:
    `Field(default=2, ge=1, le=64)`.

    Optional to override:
        idle(): the settings that have no effect under the others.

    A check of several settings together is a pydantic validator that raises `ValueError` with the rule and the remedy.

    >>> class Gate(Settings):
    ...     learned: bool = True
    ...     '''Whether the factor is learned.'''
    ...     factor: float = Field(default=1.0, gt=0.0)
    ...     '''Factor of a gate that is not learned.'''
    ...
    ...     def idle(self):
    ...         return ("factor",) if self.learned else ()
    >>> Gate(learned=False, factor=0.5).factor
    0.5
    >>> Gate(factor=0.5)
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Gate
      Value error, factor has no effect with these settings; leave it out ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def idle(self) -> Iterable[str]:
        """Return the names of settings that have no effect under the others; they must keep their defaults.

        A subclass of `Backbone` also yields the names of `super().idle()`.
        """
        return ()

    @model_validator(mode="after")
    def _check_idle(self) -> Self:
        for name in self.idle():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with these settings; leave it out")
        return self

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        for name in type(self).model_fields:
            for number in _numbers(getattr(self, name)):
                if not abs(number) <= MAX_NUMBER:
                    raise ValueError(
                        f"{name} must be a finite number between -{MAX_NUMBER:,} and {MAX_NUMBER:,}"
                    )
        return self

    def key(self) -> dict[str, Any]:
        """Return the settings as a run's key holds them: all but unchanged ones declared by `added_field`."""
        return self.model_dump(mode="json", exclude=unchanged_added_fields(self))


def _numbers(value: object) -> Iterator[float]:
    """Yield the numbers of a setting, also those inside lists."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, tuple | list | set | frozenset):
        for element in value:
            yield from _numbers(element)
