"""A whole report: from the records of a dataset to a folder of tables and pictures, and the leaderboard.

The same records give the same bytes: nothing here knows the time, the machine or the order in which files were found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import altair as alt
from rich.table import Table as RichTable

from ctrbench.names import Metric
from ctrbench.report.bins import BIN_METRICS, BinTable, bin_table
from ctrbench.report.comparison import Comparison, collect
from ctrbench.report.formats import bins_csv, latex, markdown, overall_csv, terminal_tables
from ctrbench.report.leaderboard import update_leaderboard
from ctrbench.report.page import Picture, Section, render_page
from ctrbench.report.paper import paper_table
from ctrbench.report.plots import gain_chart, metric_chart, save_chart
from ctrbench.report.tables import Table, bins_table, overall_table, quality_and_cost
from ctrbench.report.truth import truth_table
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import write_text


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What a report wrote, and its tables for a terminal."""

    page: Path
    tables: tuple[Path, ...]
    pictures: tuple[Path, ...]
    benchmarks: Path | None
    terminal: tuple[RichTable, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file, the page first."""
        return (self.page, *self.tables, *self.pictures, *((self.benchmarks,) if self.benchmarks else ()))


def report(
    store: RunStore,
    *,
    dataset: str,
    domain_set: str | None = None,
    bins: int = 5,
    out: Path,
    benchmarks: Path | None = None,
) -> ReportFiles:
    """Write tables, pictures and page of a dataset's records, and the leaderboard of all records.

    Raises `StoreError` for a dataset without records and for a leaderboard file without its markers.
    """
    comparisons = collect(store, dataset=dataset, domain_set=domain_set)
    by_bins = [bin_table(one, num_bins=bins, store=store) for one in comparisons]
    tables = [_tables(one, found) for one, found in zip(comparisons, by_bins, strict=True)]
    board = update_leaderboard(benchmarks, store) if benchmarks is not None else None
    drawn = [_draw(found, out, _suffix(place, len(by_bins))) for place, found in enumerate(by_bins, start=1)]
    sections = [
        Section(comparison=one, tables=shown, pictures=tuple(pictures))
        for one, shown, (_, pictures) in zip(comparisons, tables, drawn, strict=True)
    ]
    page = write_text(out / "index.html", render_page(dataset, sections))
    return ReportFiles(
        page=page,
        tables=tuple(_write_tables(out, comparisons, by_bins, tables)),
        pictures=tuple(file for files, _ in drawn for file in files),
        benchmarks=board,
        terminal=tuple(terminal_tables(table for shown in tables for table in shown)),
    )


def _tables(comparison: Comparison, found: BinTable) -> tuple[Table, ...]:
    first = (overall_table(comparison), truth_table(comparison), paper_table(comparison))
    by_bin = [bins_table(found, metric) for metric in BIN_METRICS] if found.bins else []
    tables = (*(table for table in first if table), *by_bin)
    return tuple(replace(table, notice=comparison.notice) for table in tables)


def _write_tables(
    out: Path,
    comparisons: tuple[Comparison, ...],
    by_bins: list[BinTable],
    tables: list[tuple[Table, ...]],
) -> Iterable[Path]:
    everything = [table for shown in tables for table in shown]
    overall = [table for table in everything if not table.name.startswith("bins")]
    bins = [table for table in everything if table.name.startswith("bins")]
    yield write_text(out / "overall.md", "\n".join(map(markdown, overall)))
    yield write_text(out / "bins.md", "\n".join(map(markdown, bins)))
    yield write_text(out / "overall.tex", "\n".join(latex(part) for one in overall for part in _parts(one)))
    yield write_text(out / "bins.tex", "\n".join(map(latex, bins)))
    yield write_text(out / "overall.csv", overall_csv(comparisons))
    yield write_text(out / "bins.csv", bins_csv(by_bins))


def _parts(table: Table) -> tuple[Table, ...]:
    return quality_and_cost(table) if table.name == "overall" else (table,)


def _suffix(place: int, num: int) -> str:
    return "" if num == 1 else f"-{place}"


def _draw(found: BinTable, out: Path, suffix: str) -> tuple[list[Path], list[Picture]]:
    files: list[Path] = []
    pictures: list[Picture] = []
    for stem, title, chart in _charts(found):
        if chart is not None:
            svg, png = save_chart(chart, out / f"{stem}{suffix}")
            files += [svg, png]
            pictures.append(Picture(title=title, svg=svg.read_text(encoding="utf-8")))
    return files, pictures


def _charts(found: BinTable) -> Iterable[tuple[str, str, alt.VConcatChart | None]]:
    comparison = found.comparison
    yield "auc", "AUC by method", metric_chart(comparison, Metric.AUC)
    yield "gauc", "GAUC by method", metric_chart(comparison, Metric.GAUC)
    yield "gain-auc", "Gain in AUC by size of domain", gain_chart(found, "auc")
    yield "gain-gauc", "Gain in GAUC by size of domain", gain_chart(found, "gauc")
