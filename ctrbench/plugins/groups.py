"""Groups: names that stand for several methods or backbones, and the order of plug-ins in tables.

They are data, in `groups.toml` beside this module, so that no module names a method. Imports no torch.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FILE = Path(__file__).with_name("groups.toml")


class Group(BaseModel):
    """Selectors under one name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    source: str
    """Section of the specification that defines the group."""
    members: tuple[str, ...] = Field(min_length=1)
    """Selectors in the order of the source."""


class Order(BaseModel):
    """Groups whose members come first in tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbones: str
    methods: str


class Groups(BaseModel):
    """Content of `groups.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: Order
    methods: dict[str, Group]
    backbones: dict[str, Group]


@cache
def read_groups() -> Groups:
    """Read and check `groups.toml`."""
    return Groups.model_validate(tomllib.loads(FILE.read_text(encoding="utf-8")))


def groups(kind: Literal["methods", "backbones"]) -> dict[str, Group]:
    """Return the groups of a kind by name, in the order of the file."""
    content = read_groups()
    return content.methods if kind == "methods" else content.backbones


def table_order() -> tuple[str, ...]:
    """Return the names of backbones and methods that come first in tables; others follow by name."""
    order = read_groups().order
    return (*groups("backbones")[order.backbones].members, *groups("methods")[order.methods].members)
