"""Tables about datasets: their splits and domains, a listing, and a forecast for generated data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from ctrbench.cli import console
from ctrbench.cli.formats import grid, percentage
from ctrbench.names import Column, DomainColumn, Split
from ctrbench.plain_text import one_line

if TYPE_CHECKING:
    import polars as pl

    from ctrbench.data.generated.forecast import Forecast
    from ctrbench.data.prepared import Prepared
    from ctrbench.data.selection import ListedDataset
    from ctrbench.data.summary import DatasetSummary

MACHINES = (1, 2, 4, 8, 16)
"""Numbers of machines for which a forecast gives the time."""


def show_prepared(prepared: Prepared, summary: DatasetSummary) -> None:
    """Print splits, features and domains of a prepared dataset, its description, homepage and location."""
    manifest = prepared.manifest
    console.print_table(_splits_table(prepared, summary.domain_set))
    features = ", ".join(summary.domain_features)
    console.print_line(
        f"{len(manifest.fields)} features · {summary.num_domains} domains by {features}: training rows "
        f"{summary.largest:,} (largest), {summary.median:,.0f} (median), {summary.smallest:,} (smallest)"
    )
    others = [name for name in manifest.domain_sets if name != summary.domain_set]
    if others:
        console.print_line(f"other domain sets: {', '.join(others)}")
    if manifest.card.description:
        console.print_line(f"description: {' '.join(manifest.card.description.split())}")
    if manifest.card.homepage:
        console.print_line(f"homepage: {one_line(manifest.card.homepage)}")
    if manifest.note:
        console.print_line(f"note: {one_line(manifest.note)}")
    console.print_line(f"location: {one_line(prepared.folder)}")


def _splits_table(prepared: Prepared, domain_set: str) -> Table:
    manifest = prepared.manifest
    headings = ("split", "rows", "positives", "CTR", "rows of unseen domains")
    table = grid(f"{manifest.title} ({manifest.name})", *headings, left=("split",))
    for split in Split:
        info = manifest.splits[split]
        unseen = manifest.domain_sets[domain_set].rows_unseen.get(split, 0)
        table.add_row(
            split,
            f"{info.rows:,}",
            f"{info.positives:,}",
            percentage(info.positives, info.rows),
            f"{unseen:,} ({percentage(unseen, info.rows)})",
        )
    return table


def show_forecast(forecast: Forecast) -> None:
    """Print the disk space and the time that generating a dataset would take."""
    lines = [
        f"{forecast.rows:,} rows, {forecast.domains:,} domains, {forecast.users:,} users, {forecast.items:,} items",
        f"{forecast.bytes / 1e9:,.1f} GB on disk ({forecast.bytes_per_row:.0f} bytes per row), none with --on-the-fly"
        if forecast.bytes
        else "no disk space: rows are generated again each time they are read",
        f"{forecast.rows_per_second:,.0f} rows/s per process on this machine, "
        f"{'including writing' if forecast.bytes else 'only the columns that preparation counts'} "
        f"(measured on {forecast.sample:,} rows)",
        *(_hours_text(forecast, machines) for machines in MACHINES),
    ]
    console.print_line("\n".join(lines))


def _hours_text(forecast: Forecast, machines: int) -> str:
    processes = forecast.processes * machines
    name = "this machine" if machines == 1 else f"{machines} machines like it"
    return f"{forecast.hours(processes):8.2f} hours on {name} ({processes} processes)"


def show_domains(prepared: Prepared, domain_set: str, domains: pl.DataFrame, top: int) -> None:
    """Print the `top` largest domains of a set, below a row for unseen domains."""
    features = " · ".join(prepared.manifest.domain_sets[domain_set].features)
    headings = ("domain", "key", *(f"rows {split}" for split in Split), "CTR train", "CTR test")
    table = grid(f"{prepared.manifest.name}: domains by {features}", *headings, left=("key",))
    for row in domains.head(top + 1).iter_rows(named=True):
        table.add_row(*_domain_row(row))
    console.print_table(table)
    if len(domains) > top + 1:
        console.print_line(f"… and {len(domains) - top - 1:,} more (show more with --top N)")


def _domain_row(row: Mapping[str, object]) -> tuple[str, ...]:
    counts, positives = (
        {split: int(str(row[name.format(split=split)])) for split in Split}
        for name in (DomainColumn.ROWS, DomainColumn.POSITIVES)
    )
    rates = [percentage(positives[split], counts[split]) for split in (Split.TRAIN, Split.TEST)]
    key = one_line(row[DomainColumn.KEY]) if row[Column.DOMAIN] else "(unseen in training)"
    return (str(row[Column.DOMAIN]), key, *(f"{count:,}" for count in counts.values()), *rates)


def show_datasets(datasets: Iterable[ListedDataset]) -> None:
    """List datasets with title and homepage, and mark those that are prepared."""
    table = Table(title="datasets", title_justify="left")
    for heading in ("name", "title and homepage", "prepared"):
        table.add_column(heading, overflow="fold")
    for dataset in datasets:
        about = "\n".join(line for line in (dataset.title, dataset.homepage) if line)
        table.add_row(dataset.name, about, "yes" if dataset.is_prepared else "")
    console.print_table(table)
