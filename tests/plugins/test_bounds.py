"""Every number among the settings of a plug-in has bounds, and no value beyond them is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from ctrbench.discovery import builtin_plugins
from ctrbench.errors import SettingError
from ctrbench.plugins.registry import KINDS, PlugKind, plugins, select
from ctrbench.plugins.settings import MAX_NUMBER, Settings
from ctrbench.runs.grid import make_config
from ctrbench.studies.study import DRAWINGS
from ctrbench.train.config import TrainConfig

DRAWING = [pytest.param(plugin.load(), id=name) for name, plugin in builtin_plugins(DRAWINGS).items()]
BUILT_IN = [pytest.param(plugin.load(), id=name) for kind in KINDS for name, plugin in plugins(kind).items()]


def integer_schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each part of a JSON schema that describes an integer."""
    if schema.get("type") == "integer":
        yield schema
    for part in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        yield from integer_schemas(part)


@pytest.mark.parametrize("settings", [*BUILT_IN, *DRAWING])
def test_every_integer_of_a_built_in_plugin_has_two_bounds(settings: type[BaseModel]) -> None:
    properties = settings.model_json_schema().get("properties", {})
    unbounded = [
        name
        for name, schema in properties.items()
        for part in integer_schemas(schema)
        if not {"minimum", "maximum"} <= part.keys()
    ]
    assert unbounded == []


@pytest.mark.parametrize("settings", BUILT_IN)
def test_every_list_of_a_built_in_plugin_has_a_largest_length(settings: type[Settings]) -> None:
    properties = settings.model_json_schema()["properties"]
    lists = [
        part
        for schema in properties.values()
        for part in (schema, *schema.get("anyOf", ()))
        if "items" in part
    ]
    assert all("maxItems" in part for part in lists)


class Weights(Settings):
    count: int = 1
    share: float = 1.0
    sizes: tuple[int, ...] = (1,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, 10**30])
def test_a_number_without_a_bound_of_its_own_is_finite_and_not_huge(value: float) -> None:
    with pytest.raises(ValidationError, match="share must be a finite number between"):
        Weights(share=value)


@pytest.mark.parametrize("value", [MAX_NUMBER + 1, -(10**30), 1 << 64])
def test_an_integer_without_a_bound_of_its_own_is_not_huge(value: int) -> None:
    with pytest.raises(ValidationError, match="count must be a finite number between"):
        Weights(count=value)
    with pytest.raises(ValidationError, match="sizes must be a finite number between"):
        Weights(sizes=(1, value))


@pytest.mark.parametrize(
    ("kind", "selector"),
    [
        ("methods", "m2m[tower_layers=99999999999999999999]"),
        ("methods", "mmoe[experts=99999999999999999999]"),
        ("methods", "hamur[hidden=99999999999999999999]"),
        ("methods", f"ple[levels={'9' * 5_000}]"),
        ("methods", "saml[temperature=inf]"),
        ("methods", "star[eps=nan]"),
        ("methods", "star[shrinkage=1e300]"),
        ("backbones", "deepfm[hidden=99999999999999999999]"),
        ("backbones", "xdeepfm[cin=99999999999999999999]"),
        ("backbones", "dnn[hidden=0]"),
        ("backbones", "dnn[hidden=128-0-3]"),
        ("backbones", "dnn[hidden=-1]"),
        ("backbones", "dnn[hidden=65537]"),
        ("backbones", f"dnn[hidden={'-'.join(['8'] * 65)}]"),
        ("backbones", "widedeep[hidden=0-0]"),
    ],
)
def test_settings_beyond_their_bounds_are_refused(kind: PlugKind, selector: str) -> None:
    with pytest.raises(SettingError):
        _ = select(kind, selector).value


def test_the_bound_is_in_the_message() -> None:
    with pytest.raises(SettingError, match="less than or equal to 65536"):
        _ = select("backbones", "dnn[hidden=1000000000]").value


INTEGERS = [
    "embedding_size",
    "batch_size",
    "epochs",
    "evaluations",
    "evaluation_rows",
    "patience",
    "window",
    "threads",
]


FLOATS = {"lr": 10.0, "anneal_epochs": 10_000.0}
"""Largest value of each."""


def test_every_number_of_the_training_configuration_is_tested() -> None:
    numbers = [
        name
        for name, field in TrainConfig.model_fields.items()
        if {int, float} & {field.annotation, *get_args(field.annotation)}
    ]
    assert sorted(numbers) == sorted([*INTEGERS, *FLOATS])


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, -1, 1 << 63, 10**30, "9" * 5_000])
def test_integers_of_the_training_configuration_have_bounds(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"--{name.replace('_', '-')} must be"):
        make_config(**{name: value})


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e20])
def test_numbers_of_the_training_configuration_are_positive_and_bounded(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"--{name.replace('_', '-')} must be"):
        make_config(**{name: value})
    assert make_config(**{name: FLOATS[name]})
