"""The command that reads results: report."""

from __future__ import annotations

from pathlib import Path

from ctrbench.cli import options, show_results
from ctrbench.cli.runs import latest_dataset


def report(
    dataset: options.Dataset = None,
    domains: options.RecordedDomains = None,
    bins: options.Bins = 5,
    metrics: options.Metrics = None,
    charts: options.Charts = None,
    results: options.Results = "results",
    out: options.ReportFolder = Path("report"),
    leaderboard: options.Leaderboard = None,
) -> None:
    """Write tables and charts, and update a leaderboard."""
    from ctrbench.report.write import report as write_report
    from ctrbench.runs.store import open_store

    files = write_report(
        open_store(results),
        dataset=dataset or latest_dataset(),
        domain_set=domains,
        bins=bins,
        metrics=_split_names(metrics),
        charts=_split_names(charts),
        out=out,
        leaderboard=leaderboard,
    )
    show_results.show_files(files.terminal, files.paths)


def _split_names(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]
