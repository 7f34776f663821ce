"""The base class of study drawings, and the values that they receive and return.

A drawing turns the records of a study's runs into tables and charts. One file is one drawing: a built-in file of
`studies/drawings`, a path to a `.py` file in the study (`draw = "my_drawing.py"`), or an entry point of the group
`ctrbench.drawings`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import altair as alt
from pydantic import BaseModel, ConfigDict

from ctrbench.report.comparison import Comparison, Row, compare
from ctrbench.report.table import Table
from ctrbench.runs.record import Result, RunRecord
from ctrbench.runs.store import RunStore


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A domain: its name, and the ids of its features' values in the order of the domain features."""

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The results of one domain set of a study."""

    comparison: Comparison
    """Rows in the study's order of methods, named by the study's labels."""
    domains: Mapping[int, Domain]
    """By domain id."""

    def domain_name(self, domain: int) -> str:
        """Return the name of a domain, or its id if the prepared data do not have it."""
        return self.domains[domain].name if domain in self.domains else str(domain)

    @property
    def any_result(self) -> Result:
        """The result of some run; rows, positives and training rows per domain are the same in all of them."""
        return next(record.result for record in self.comparison.records if record.result)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The output of a drawing."""

    tables: tuple[Table, ...] = ()
    charts: tuple[tuple[str, alt.VConcatChart | None], ...] = ()
    """File name without suffix, and the chart; None if there is nothing to show."""
    data: tuple[dict[str, object], ...] = ()
    """The plotted numbers, unrounded, one dictionary per row of `data.csv`; may be empty."""


class Drawing(BaseModel, ABC):
    """A table or chart of a study. Its fields are its options: keys of the study's TOML file.

    Implement `draw`. Set `needs_plain` if the drawing shows gains over plain, and `needs_inspection` if it shows what
    methods report about their models; runs whose inspection is missing are then repeated.

    A complete drawing, saved as `best.py` and used by a study with `draw = "best.py"` and, optionally, `digits = 3`::

        \"\"\"The best method per domain set.\"\"\"

        from statistics import fmean

        from ctrbench.report.table import Cell, Line, Table
        from ctrbench.studies.drawing import Drawing, Drawn


        class Best(Drawing):
            digits: int = 4

            def draw(self, parts, *, store):
                lines = []
                for part in parts:
                    means = {row.method: fmean(row.values("auc").values()) for row in part.comparison.rows}
                    best = max(means, key=means.get)
                    cells = (Cell(text=best), Cell(text=f"{means[best]:.{self.digits}f}"))
                    lines.append(Line(kind="method", label=part.comparison.title, cells=cells))
                columns = ("method", "AUC")
                return Drawn(tables=(Table(name="best", title="Best", columns=columns, lines=tuple(lines)),))
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs_plain: ClassVar[bool] = False
    """Whether the study's methods must include `plain`."""
    needs_inspection: ClassVar[bool] = False
    """Whether the drawing reads the inspections of the runs."""

    @abstractmethod
    def draw(self, parts: Sequence[Part], *, store: RunStore) -> Drawn:
        """Return tables and charts of the parts, one part per domain set; `store` has predictions and inspections."""


def make_part(
    records: Iterable[RunRecord], *, labels: Mapping[str, str], domains: Mapping[int, Domain]
) -> Part:
    """Return the records of one domain set as a part; `labels` maps the digest of a method to its label, in order."""
    (comparison,) = compare(records)
    order = list(labels)

    def sort_key(row: Row) -> tuple[int, int]:
        return comparison.backbones.index(row.backbone), order.index(row.key.method.digest)

    rows = tuple(
        replace(row, method=f"{labels[row.key.method.digest]}{row.indicator_suffix}")
        for row in sorted(comparison.rows, key=sort_key)
    )
    return Part(comparison=replace(comparison, rows=rows), domains=domains)


def numbered(name: str, number: int, total: int) -> str:
    """Return a file name for chart `number` of `total`, counted from 1; a single chart has no number."""
    return name if total == 1 else f"{name}-{number}"
