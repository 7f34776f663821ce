"""A rule of the contract, and the helpers that rules share.

A rule is a function that receives a case and returns None, or a sentence that describes the fault and its usual cause.
`@rule(name, statement)` turns such a function into a `Rule`; `contract.rules` lists all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ctrbench.contract.case import Case

TOLERANCE = 1e-5
"""Accepted difference of logits, relative to the logit or to one: rounding of products of different shapes."""

Check = Callable[[Case], str | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of the contract."""

    name: str
    """Short name, as in the table of `ctrbench check`."""
    statement: str
    """Sentence that holds for every method that keeps the rule."""
    check: Check
    """Returns a sentence on the fault and its usual cause, or None."""
    is_required: bool = False
    """Whether the rules after it make no sense for a method that breaks it."""


def rule(name: str, statement: str, *, is_required: bool = False) -> Callable[[Check], Rule]:
    """Return a decorator that turns a check into a rule."""

    def decorate(check: Check) -> Rule:
        return Rule(name=name, statement=statement, check=check, is_required=is_required)

    return decorate


def list_names(names: Sequence[str], limit: int = 4) -> str:
    """Return names separated by commas, at most `limit` of them."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def largest_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference, relative to the value or to one; infinity if any value is not finite."""
    difference = np.abs(first - second) / np.maximum(1.0, np.abs(second))
    return float(np.nan_to_num(difference, nan=math.inf).max(initial=0.0))
