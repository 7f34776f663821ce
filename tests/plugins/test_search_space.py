from __future__ import annotations

from typing import Annotated

import pytest

from ctrbench.extend import Choices, Estimator, LogRange, Method, Plan
from ctrbench.plugins.base import CommonFields
from ctrbench.plugins.registry import METHODS, builtin_plugins
from ctrbench.plugins.search_space import search_space


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
