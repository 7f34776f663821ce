"""A whole report: from the records of a dataset to a folder of tables, charts and a page, and the leaderboard.

The same records give the same bytes: no time, machine or order of files enters the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.table import Table as RichTable

from ctrbench.eval.metrics.registry import builtin_metrics, load_metrics
from ctrbench.plain_text import file_name
from ctrbench.report.additional_metrics import with_additional_metrics
from ctrbench.report.bins import DEFAULT_NUM_BINS, check_num_bins
from ctrbench.report.chart import Chart, draw_figures, load_charts
from ctrbench.report.comparison import collect
from ctrbench.report.controls_table import controls_table
from ctrbench.report.csv_files import bins_csv, controls_csv, overall_csv
from ctrbench.report.difference_table import difference_table
from ctrbench.report.formats import latex, markdown, terminal_tables
from ctrbench.report.leaderboard import updated_page
from ctrbench.report.oracle import oracle_table
from ctrbench.report.page import Picture, Section, render_page
from ctrbench.report.plots import render_chart
from ctrbench.report.published_figures import published_figures_table
from ctrbench.report.summary import Summary, summarize
from ctrbench.report.table import Table
from ctrbench.report.tables import bins_table, narrow_tables, overall_table
from ctrbench.report.tuned_table import tuned_table
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import write_files


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """Files of a report, and its tables for a terminal."""

    page: Path
    tables: tuple[Path, ...]
    pictures: tuple[Path, ...]
    leaderboard: Path | None
    """File with the leaderboard, if it was updated."""
    terminal: tuple[RichTable, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, the page first."""
        return (self.page, *self.tables, *self.pictures, *((self.leaderboard,) if self.leaderboard else ()))


def report(
    store: RunStore,
    *,
    dataset: str,
    domain_set: str | None = None,
    bins: int = DEFAULT_NUM_BINS,
    out: Path,
    leaderboard: Path | None = None,
    metrics: Iterable[str] = (),
    charts: Iterable[str] = (),
) -> ReportFiles:
    """Write tables, charts and page of a dataset's records, and the leaderboard of all records to an existing file.

    `metrics` and `charts` name plug-ins from outside, by path or entry point, that are reported besides the built-in
    ones; metrics are computed from the stored predictions. Raises `StoreError` for a dataset without records and for a
    leaderboard file without its markers.
    """
    extra, all_charts = load_metrics(metrics), load_charts(charts)
    every = builtin_metrics() | extra
    comparisons = collect(
        store,
        dataset=dataset,
        domain_set=domain_set,
        complete=partial(with_additional_metrics, metrics=extra, store=store),
    )
    check_num_bins(bins, comparisons)
    summaries = [
        summarize(comparison, num_bins=bins, store=store, metrics=every) for comparison in comparisons
    ]
    tables = [_report_tables(summary) for summary in summaries]
    # All files are rendered before the first is written, so an error leaves the previous report.
    board = {} if leaderboard is None else {leaderboard: updated_page(leaderboard, store).encode()}
    figures = [
        _draw_charts(all_charts, summary, out, _file_suffix(i, len(summaries)))
        for i, summary in enumerate(summaries, start=1)
    ]
    sections = [
        Section(summary=summary, tables=of_summary, pictures=tuple(pictures))
        for summary, of_summary, (_, pictures) in zip(summaries, tables, figures, strict=True)
    ]
    page = out / "index.html"
    table_files = _table_files(out, summaries, tables)
    pictures = {file: content for files, _ in figures for file, content in files.items()}
    terminal = tuple(terminal_tables(table for of_summary in tables for table in of_summary))
    write_files({page: render_page(dataset, sections).encode(), **table_files, **pictures, **board})
    return ReportFiles(
        page=page,
        tables=tuple(table_files),
        pictures=tuple(pictures),
        leaderboard=leaderboard,
        terminal=terminal,
    )


def _report_tables(summary: Summary) -> tuple[Table, ...]:
    overall = (
        overall_table(summary),
        difference_table(summary),
        controls_table(summary),
        tuned_table(summary),
        oracle_table(summary),
        published_figures_table(summary),
    )
    by_bin = [bins_table(summary, metric.name) for metric in summary.bin_metrics] if summary.bins.bins else []
    tables = (*(table for table in overall if table), *by_bin)
    return tuple(replace(table, notice=summary.comparison.notice) for table in tables)


def _table_files(
    out: Path, summaries: Sequence[Summary], tables: Sequence[tuple[Table, ...]]
) -> dict[Path, bytes]:
    all_tables = [table for of_summary in tables for table in of_summary]
    overall = [table for table in all_tables if not table.name.startswith("bins")]
    bins = [table for table in all_tables if table.name.startswith("bins")]
    narrow = [part for table in overall for part in narrow_tables(table)]
    texts = {
        "overall.md": "\n".join(map(markdown, overall)),
        "bins.md": "\n".join(map(markdown, bins)),
        "overall.tex": "\n".join(map(latex, narrow)),
        "bins.tex": "\n".join(map(latex, bins)),
        "overall.csv": overall_csv(summaries),
        "bins.csv": bins_csv(summaries),
    }
    if any(summary.comparison.controls for summary in summaries):
        texts["controls.csv"] = controls_csv(summaries)
    return {out / name: text.encode() for name, text in texts.items()}


def _file_suffix(number: int, num_summaries: int) -> str:
    return "" if num_summaries == 1 else f"-{number}"


def _draw_charts(
    charts: Sequence[Chart], summary: Summary, out: Path, suffix: str
) -> tuple[dict[Path, bytes], list[Picture]]:
    files: dict[Path, bytes] = {}
    pictures: list[Picture] = []
    for figure in draw_figures(charts, summary):
        rendered = render_chart(figure.chart, out / file_name(f"{figure.stem}{suffix}"))
        svg, _ = rendered.values()
        files |= rendered
        pictures.append(Picture(title=figure.title, svg=svg.decode()))
    return files, pictures
