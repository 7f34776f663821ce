from __future__ import annotations

from typing import Annotated

import pytest

from ctrbench.errors import SettingError
from ctrbench.extend import Choices, Estimator, LogRange, Method, Plan
from ctrbench.plugins.base import CommonFields
from ctrbench.plugins.ranges import SearchRange, Value
from ctrbench.plugins.registry import METHODS, builtin_plugins, select
from ctrbench.plugins.search_space import active_settings, search_space


class Mine(Method):
    """A method with a space of its own."""

    experts: Annotated[int, Choices(2, 4, 8)] = 4
    """Experts."""
    rate: Annotated[float, LogRange(1e-3, 1e-1)] = 0.01
    """Rate."""
    fixed: int = 1
    """A setting that is not tuned."""

    def rewrite(self, plan: Plan) -> Plan:
        return plan


class Silent(Method):
    """A method that declares no range."""

    def rewrite(self, plan: Plan) -> Plan:
        return plan


def test_own_ranges_come_before_the_common_ones() -> None:
    space = search_space(Mine)
    assert list(space)[:2] == ["experts", "rate"]
    assert set(space) - {"experts", "rate"} == set(search_space(Silent))
    assert {"lr", "dropout", "embedding_l2", "weight_decay", "tower_norm", "embedding_std"} == set(
        search_space(Silent)
    )


def test_common_settings_do_not_apply_to_estimators() -> None:
    assert not set(search_space(Estimator)) & set(CommonFields.model_fields)


@pytest.mark.parametrize("name", builtin_plugins(METHODS))
def test_every_default_can_be_found(name: str) -> None:
    """A default that its own range leaves out would make tuning start outside its space."""
    method = builtin_plugins(METHODS)[name].load()
    for setting, values in search_space(method).items():
        default = method.model_fields[setting].default
        if isinstance(values, Choices) and setting not in CommonFields.model_fields:
            texts = {str(value) for value in values.values}
            shown = "-".join(map(str, default)) if isinstance(default, tuple) else str(default)
            assert shown in texts, (setting, default)


@pytest.mark.parametrize("values", [(), (1,), (1, 1)])
def test_choices_must_differ(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two or more different values"):
        Choices(*values)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_bounds_must_be_positive_and_ascend(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="0 < low < high"):
        LogRange(*bounds)


def test_a_method_may_narrow_a_common_range() -> None:
    assert search_space(builtin_plugins(METHODS)["maml"].load())["tower_norm"] == Choices(None, "layer")
    assert list(search_space(Mine)).count("tower_norm") == 1


def values_of(values: SearchRange) -> list[str]:
    """Return choices, or the ends of a range, as texts of a selector."""
    parts = values.values if isinstance(values, Choices) else (values.low, values.high)  # type: ignore[attr-defined]
    return ["none" if part is None else str(part) for part in parts]


REFUSED = ("has no effect", "moments of one domain")
"""Values that are only allowed together with others, such as batch normalization with mixed batches."""


@pytest.mark.parametrize("name", builtin_plugins(METHODS))
def test_every_value_of_a_range_is_accepted(name: str) -> None:
    for setting, values in search_space(builtin_plugins(METHODS)[name].load()).items():
        refused = []
        for value in values_of(values):
            try:
                _ = select("methods", f"{name}[{setting}={value}]").value
            except SettingError as error:
                refused.append(str(error))
        assert len(refused) < len(values_of(values)), refused
        assert [text for text in refused if not any(part in text for part in REFUSED)] == []


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ({"version": "v4", "over": "64", "rank": "8"}, {"version": "v4", "rank": "8"}),
        ({"version": "v5", "over": "64", "dropout": 0.1}, {"version": "v5", "over": "64", "dropout": 0.1}),
    ],
)
def test_settings_without_effect_are_left_out(drawn: dict[str, Value], expected: dict[str, Value]) -> None:
    assert active_settings(builtin_plugins(METHODS)["apg"].load(), drawn) == expected
