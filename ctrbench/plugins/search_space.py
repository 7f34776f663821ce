"""Search spaces of tuning: the values that a method declares for its settings, and those common to all methods.

A setting is tuned if its annotation holds a range: `rate: Annotated[float, LogRange(1e-3, 1e-1)] = 0.01`. Every method
inherits the ranges of the common settings, so a method file that declares none has these.
"""

from __future__ import annotations

from collections.abc import Mapping

from ctrbench.plugins.base import Estimator, Method
from ctrbench.plugins.common import CommonFields
from ctrbench.plugins.ranges import SearchRange


def search_space(method: type[Method]) -> Mapping[str, SearchRange]:
    """Return the range of each tuned setting of a method: its own first, then the common ones.

    The common settings do not apply to an estimator.
    """
    ranges = {
        name: part
        for name, field in method.model_fields.items()
        for part in field.metadata
        if isinstance(part, SearchRange)
    }
    own = {name: part for name, part in ranges.items() if name not in CommonFields.model_fields}
    return own if issubclass(method, Estimator) else own | ranges
