"""Search spaces of tuning: the values that a method declares for its settings, and those common to all methods.

A setting is tuned if its annotation holds a range: `rate: Annotated[float, LogRange(1e-3, 1e-1)] = 0.01`. Every method
inherits the ranges of the common settings, so a method file that declares none has these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctrbench.plugins.base import Estimator, Method
from ctrbench.plugins.common import CommonFields
from ctrbench.plugins.ranges import SearchRange, Value

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def range_of(field: FieldInfo) -> SearchRange | None:
    """Return the range that a setting declares; None if it is not tuned."""
    return next((part for part in field.metadata if isinstance(part, SearchRange)), None)


def search_space(method: type[Method]) -> Mapping[str, SearchRange]:
    """Return the range of each tuned setting of a method: its own first, then the common ones.

    A method may declare a common setting again with another range, which then counts as its own. The common settings do
    not apply to an estimator.
    """
    common, ranges = _ranges(CommonFields), _ranges(method)
    own = {name: values for name, values in ranges.items() if values != common.get(name)}
    return own if issubclass(method, Estimator) else own | ranges


def _ranges(settings: type[CommonFields]) -> dict[str, SearchRange]:
    ranges = {name: range_of(field) for name, field in settings.model_fields.items()}
    return {name: values for name, values in ranges.items() if values is not None}


def active_settings(method: type[Method], drawn: Mapping[str, Value]) -> dict[str, Value]:
    """Return the drawn settings without those that have no effect under the others, which a method refuses.

    Combinations that the method refuses for another reason are not detected here.
    """
    values: dict[str, Any] = {name: _parse(method.model_fields[name], value) for name, value in drawn.items()}
    idle = set(method.model_construct(**values).idle())
    return {name: value for name, value in drawn.items() if name not in idle}


def _parse(field: FieldInfo, value: Value) -> Value | tuple[int, ...]:
    """Return a value as the setting holds it; lists, such as widths, are texts among choices."""
    if isinstance(value, str) and "tuple" in str(field.annotation):
        return tuple(map(int, value.split("-")))
    return value
