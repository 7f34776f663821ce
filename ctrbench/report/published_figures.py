"""Published figures of papers, shown beside results on the same data.

A paper's figures are data, one TOML file each in `published/`. They appear only where dataset, domain features,
backbone, method and settings are those of the paper: a synthetic twin of a dataset has other rows and other clicks, so
no published figure applies to it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ctrbench.report.comparison import Row
from ctrbench.report.summary import Summary
from ctrbench.report.table import Cell, Line, Table, cell, number

FOLDER = Path(__file__).with_name("published")


class PublishedFigures(BaseModel):
    """Figures of one table of a paper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """Section of the specification that repeats the figures."""
    title: str
    note: str
    dataset: str
    domain_features: tuple[str, ...]
    metrics: tuple[str, ...]
    settings: dict[str, dict[str, str]]
    """Settings of a method in the paper, by method."""
    figures: dict[str, dict[str, tuple[float, ...]]]
    """Values of `metrics`, by backbone and method."""

    def values(self, row: Row) -> tuple[float, ...] | None:
        """Return the published values for a row; None where its settings are not those of the paper."""
        method = row.key.method
        expected = {"norm": None, "aux": None, **self.settings.get(method.name, {})}
        is_published = all(method.settings.get(name, value) == value for name, value in expected.items())
        return self.figures.get(row.key.backbone.name, {}).get(method.name) if is_published else None


@cache
def published_figures() -> tuple[PublishedFigures, ...]:
    """Read the figures of all papers."""
    files = sorted(FOLDER.glob("*.toml"))
    return tuple(
        PublishedFigures.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))) for file in files
    )


def published_figures_table(summary: Summary) -> Table | None:
    """Return published figures beside ours; None unless data, domains and a method are those of a paper."""
    key = summary.comparison.key
    for published in published_figures():
        has_data = key.dataset == published.dataset
        if has_data and set(key.domain_features) == set(published.domain_features):
            return _table_of_figures(summary, published)
    return None


def _table_of_figures(summary: Summary, published: PublishedFigures) -> Table | None:
    comparison = summary.comparison
    lines = tuple(
        line for backbone in comparison.backbones for line in _lines_of_backbone(summary, published, backbone)
    )
    if not lines:
        return None
    titles = [summary.metrics.by_name[metric].title for metric in published.metrics]
    return Table(
        name="paper",
        title=f"{published.title} · {comparison.title}",
        columns=tuple(f"{title} {source}" for title in titles for source in ("paper", "ours")),
        lines=lines,
        notes=(published.note,),
    )


def _lines_of_backbone(summary: Summary, published: PublishedFigures, backbone: str) -> Iterable[Line]:
    rows = [(row, published.values(row.row)) for row in summary.of_backbone(backbone)]
    if any(values for _, values in rows):
        yield Line(kind="backbone", label=backbone)
    for row, values in rows:
        if values is None:
            continue
        cells = [
            (Cell(text=number(value, digits)), cell(row.estimate(metric), digits))
            for value, metric in zip(values, published.metrics, strict=True)
            for digits in [summary.metrics.by_name[metric].digits]
        ]
        yield Line(kind="method", label=row.row.method, cells=tuple(chain.from_iterable(cells)))
