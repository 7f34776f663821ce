"""A figure of a report, and the discovery of the charts in this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, cast

import altair as alt

from ctrbench.report import charts
from ctrbench.report.summary import Summary


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its title and the stem of its files."""

    stem: str
    title: str
    chart: alt.VConcatChart


class _ChartModule(Protocol):
    def draw(self, summary: Summary) -> Iterable[Figure]: ...


def draw_figures(summary: Summary) -> Iterable[Figure]:
    """Yield the figures of all charts, in order of file name; charts without data yield none."""
    for module in sorted(pkgutil.iter_modules(charts.__path__), key=lambda module: module.name):
        if module.name != "figure":
            chart = cast(_ChartModule, importlib.import_module(f"{charts.__name__}.{module.name}"))
            yield from chart.draw(summary)
