"""The command that reads results: report."""

from __future__ import annotations

from pathlib import Path

from ctrbench.cli import options, show_results
from ctrbench.cli.runs import latest_dataset, open_store


def report(
    dataset: options.Dataset = None,
    domains: options.RecordedDomains = None,
    bins: options.Bins = 5,
    metrics: options.Metrics = None,
    results: options.Results = "results",
    out: options.ReportFolder = Path("report"),
    benchmarks: options.Leaderboard = None,
) -> None:
    """Write tables, charts and the leaderboard."""
    from ctrbench.report.write import report as write_report

    board = benchmarks or next(Path().glob("BENCHMARKS.md"), None)
    files = write_report(
        open_store(results),
        dataset=dataset or latest_dataset(),
        domain_set=domains,
        bins=bins,
        metrics=[name.strip() for name in (metrics or "").split(",") if name.strip()],
        out=out,
        benchmarks=board,
    )
    show_results.show_files(files.terminal, files.paths)
