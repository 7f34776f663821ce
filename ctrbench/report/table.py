"""A table in any format: lines, cells, marks and footnotes, and how numbers are written in them.

Numbers are rounded here and nowhere else; the CSV files hold them unrounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from ctrbench.eval.verdicts import RankRange
from ctrbench.report.differences import Gain
from ctrbench.report.estimate import Estimate
from ctrbench.report.summary import Score

DASH = "–"
"""Shown for an undefined or unknown value, never for a number."""
LineKind = Literal["backbone", "method", "variant", "gain", "oracle", "fact"]


class Mark(StrEnum):
    """Property of a number that tables show by its type."""

    NONE = ""
    BEST = "best"
    """The best mean; bold."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number as text, with its standard deviation and its mark."""

    text: str = DASH
    std: str = ""
    mark: Mark = Mark.NONE


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table; a backbone line has no cells, a line without a result has a remark instead."""

    kind: LineKind
    label: str
    cells: tuple[Cell, ...] = ()
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; `columns` are the headings of all columns but the first, which holds the labels of the lines."""

    name: str
    """Name of the kind of table, such as `overall`."""
    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    """Meaning of the marks."""
    definitions: tuple[str, ...] = ()
    """Meaning of the columns, for formats with long footnotes."""
    cost_definitions: tuple[str, ...] = ()
    """Meaning of the columns about cost."""
    notice: str = ""
    """Warning right under the title, such as that the data are synthetic."""

    @property
    def footnotes(self) -> tuple[str, ...]:
        """Notes and definitions."""
        return self.notes + self.definitions + self.cost_definitions

    @property
    def stds(self) -> tuple[str, ...]:
        """A standard deviation of each column (empty if it has none), whose width other cells of the column reserve."""
        rows = [line.cells for line in self.lines if line.cells]
        return tuple(
            next((cells[index].std for cells in rows if cells[index].std), "")
            for index in range(len(self.columns))
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """The remarks as sentences, for formats whose cells are too narrow for them."""
        sentences, backbone = [], ""
        for line in self.lines:
            backbone = line.label if line.kind == "backbone" else backbone
            if line.remark:
                sentences.append(f"{line.label} on {backbone}: {line.remark}")
        return tuple(sentences)

    def select(self, columns: Sequence[str]) -> Table:
        """Return the table with these columns only."""
        indices = [self.columns.index(column) for column in columns]
        lines = tuple(
            replace(line, cells=tuple(line.cells[index] for index in indices) if line.cells else ())
            for line in self.lines
        )
        return replace(self, columns=tuple(columns), lines=lines)


def number(value: float | None, digits: int) -> str:
    """Write a number with a true minus sign; a dash for None."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int) -> str:
    """Write a difference with its sign; 0 has none."""
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")


def count(value: int) -> str:
    """Write a count with at most three digits and a unit.

    >>> count(999), count(1_234), count(3_400_000)
    ('999', '1.23 k', '3.4 M')
    """
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return str(value)


def percent(share: Estimate | None) -> str:
    """Write the mean of a share in percent; a dash for None."""
    return DASH if share is None else f"{100 * share.mean:.1f} %"


def seconds(duration: Estimate | None) -> str:
    """Write the mean of a duration; a dash for None."""
    if duration is None:
        return DASH
    return f"{duration.mean:,.0f}" if duration.mean >= 10 else f"{duration.mean:.1f}"


def cell(value: Estimate | None, digits: int, *, mark: Mark = Mark.NONE) -> Cell:
    """Return a cell with mean and standard deviation; a single seed has no deviation."""
    if value is None:
        return Cell()
    return Cell(text=number(value.mean, digits), std=_std_text(value, digits), mark=mark)


def signed_cell(difference: Estimate | None, digits: int, *, mark: Mark = Mark.NONE) -> Cell:
    """Return a cell with mean and standard deviation of a difference, the mean with its sign."""
    if difference is None:
        return Cell()
    return Cell(text=signed(difference.mean, digits), std=_std_text(difference, digits), mark=mark)


def _std_text(value: Estimate, digits: int) -> str:
    return "" if value.std is None else number(value.std, digits)


def mark_of(score: Score) -> Mark:
    """Return the mark of the best mean of a backbone."""
    return Mark.BEST if score.is_marked else Mark.NONE


def difference_text(gain: Gain | None, digits: int) -> str:
    """Write the mean of a gain with its interval over seeds and test users, where that is known; a dash for None."""
    if gain is None or gain.estimate is None:
        return DASH
    mean = signed(gain.estimate.mean, digits)
    uncertainty = gain.difference.contrast.uncertainty if gain.difference else None
    if uncertainty is None:
        return mean
    return f"{mean} ({signed(uncertainty.low, digits)} to {signed(uncertainty.high, digits)})"


def verdict_text(gain: Gain | None) -> str:
    """Write the verdict on a gain; a dash where there is none."""
    return str(gain.difference.verdict) if gain and gain.difference else DASH


def rank_text(rank: RankRange | None) -> str:
    """Write the possible ranks of a row; a dash for a row that is not ranked."""
    if rank is None:
        return DASH
    return str(rank.first) if rank.first == rank.last else f"{rank.first}–{rank.last}"
