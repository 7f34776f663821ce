"""The command that reads results: report."""

from __future__ import annotations

from pathlib import Path

from ctrbench.cli import options, show_results
from ctrbench.cli.runs import latest_dataset
from ctrbench.errors import SettingError, shorten


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
    from ctrbench.storage.outputs import check_folder, check_local_file

    check_folder(out, "--out")
    if leaderboard is not None:
        check_local_file(leaderboard, "--leaderboard")
    metric_names, chart_names = _split_names(metrics, "--metrics"), _split_names(charts, "--charts")
    files = write_report(
        open_store(results),
        dataset=latest_dataset() if dataset is None else dataset,
        domain_set=domains,
        bins=bins,
        metrics=metric_names,
        charts=chart_names,
        out=out,
        leaderboard=leaderboard,
    )
    show_results.show_files(files.terminal, files.paths)


def _split_names(text: str | None, option: str) -> list[str]:
    if text is None:
        return []
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SettingError(f"{option} must name at least one file or plug-in", value=repr(shorten(text)))
    return names
