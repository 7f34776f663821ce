"""The leaderboard block of BENCHMARKS.md: one table per comparison of the results folder.

The block between two markers is rewritten from all records; text outside it is never changed. A row links to the folder
of its records, and one command below the table repeats its runs. Rows are sorted by mean AUC, with the ranks that are
possible; rows with fewer than `MIN_SEEDS` seeds have none, and a row with failed runs comes after all rows without.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctrbench.errors import StoreError
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.eval.metrics.logloss import LogLoss
from ctrbench.report.commands import run_commands
from ctrbench.report.comparison import Comparison, compare
from ctrbench.report.footnotes import collapse_notes, indicator_note, verdict_notes
from ctrbench.report.formats import markdown_text
from ctrbench.report.summary import RowSummary, Summary, auc_order, summarize
from ctrbench.report.table import DASH, Cell, cell, count, difference_text, number, rank_text, verdict_text
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import link, write_text

START, END = "<!-- leaderboard:start -->", "<!-- leaderboard:end -->"
UNLISTED_PREFIX = "production-"
"""Datasets with this prefix are not listed: trees rank higher than plain on them (docs/decisions.md)."""
_METRICS = (Auc(), Gauc(), LogLoss())


def update_leaderboard(benchmarks: Path, store: RunStore) -> Path:
    """Rewrite the block of a file from all records of a store, atomically; see `updated_page`."""
    return write_text(benchmarks, updated_page(benchmarks, store))


def updated_page(benchmarks: Path, store: RunStore) -> str:
    """Return the text of a file with its block rewritten from all records of a store.

    Raises `StoreError` for a missing file, and for one without exactly one pair of markers, in order.
    """
    text = _read_page(benchmarks)
    before, after = _text_around_markers(text, benchmarks)
    block = leaderboard(_by_dataset(store.records()), store, folder=benchmarks.parent)
    return f"{before}{START}\n{block}{END}{after}"


def _by_dataset(records: Iterable[RunRecord]) -> list[Comparison]:
    """Return the comparisons of each dataset; settings used on other datasets do not lengthen its labels."""
    datasets: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        datasets[record.key.dataset].append(record)
    return [comparison for name in sorted(datasets) for comparison in compare(datasets[name])]


def leaderboard(comparisons: Sequence[Comparison], store: RunStore, *, folder: Path) -> str:
    """Return the block as Markdown; links are relative to `folder`."""
    listed = [comparison for comparison in comparisons if is_listed(comparison)]
    tables = [_leaderboard_table(summarize(comparison), store, folder) for comparison in listed]
    return "\n".join(table for table in tables if table) or "No records yet.\n"


def is_listed(comparison: Comparison) -> bool:
    """Return whether a comparison is listed: not null data, nor data on which trees rank higher than plain."""
    return comparison.kind != "null data" and not comparison.key.dataset.startswith(UNLISTED_PREFIX)


def _read_page(benchmarks: Path) -> str:
    try:
        # Bytes, since reading as text would change the line ends of a file from another system.
        return benchmarks.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise StoreError(
            "no such file for the leaderboard",
            value=benchmarks,
            remedy=f"create it with the lines {START} and {END}",
        ) from None


def _text_around_markers(text: str, benchmarks: Path) -> tuple[str, str]:
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in before or END in after:
        raise StoreError(
            "the leaderboard must have its two markers, each once and in order",
            value=benchmarks,
            remedy=f"write {START} and, below it, {END} at the position of the leaderboard",
        )
    return before, after


def _leaderboard_table(summary: Summary, store: RunStore, folder: Path) -> str:
    rows = sorted(filter(_is_shown, summary.rows), key=_leaderboard_order)
    if not rows:
        return ""
    comparison = summary.comparison
    metrics = [metric.title for metric in _METRICS]
    titles = ["rank", "method", "backbone", *metrics, "AUC − plain", "verdict", "parameters", "seeds"]
    head = f"| {' | '.join(titles)} |\n| --: | :-- | :-- | --: | --: | --: | --: | :-- | --: | --: |"
    body = "\n".join(_table_line(row, store, folder) for row in rows)
    notes = "".join(f"{markdown_text(note)}\n\n" for note in _table_notes(summary))
    kind = f" ({comparison.kind})" if comparison.kind else ""
    notice = f"**{markdown_text(comparison.notice)}**\n\n" if comparison.notice else ""
    commands = "\n".join(run_commands(comparison))
    return (
        f"### {markdown_text(comparison.title)}{kind}\n\n{notice}{head}\n{body}\n{_oracle_line(comparison)}\n{notes}"
        f"<details><summary>Command that repeats the runs</summary>\n\n```sh\n{commands}\n```\n\n</details>\n"
    )


def _is_shown(row: RowSummary) -> bool:
    """Return whether a row has finished or failed runs."""
    return bool(row.row.finished or row.row.num_failed)


def _leaderboard_order(row: RowSummary) -> tuple[bool, float, str, str]:
    return (*auc_order(row.row), *row.row.name)


def _table_notes(summary: Summary) -> Iterable[str]:
    yield from verdict_notes(summary)
    yield from collapse_notes(summary)
    yield from indicator_note(summary.comparison)


def _table_line(row: RowSummary, store: RunStore, folder: Path) -> str:
    metrics = [_cell_text(cell(row.estimate(metric.name), metric.digits)) for metric in _METRICS]
    gain = row.score(Auc.name).gain
    differences = [difference_text(gain, Auc.digits), verdict_text(gain)]
    parameters = row.row.parameters
    total = count(sum(parameters.model_dump().values())) if parameters else DASH
    names = [markdown_text(row.row.method), markdown_text(row.row.backbone)]
    cells = [rank_text(row.rank), *names, *metrics, *differences, total, _seeds_text(row, store, folder)]
    return f"| {' | '.join(cells)} |"


def _cell_text(value: Cell) -> str:
    return f"{value.text} ± {value.std}" if value.std else value.text


def _seeds_text(row: RowSummary, store: RunStore, folder: Path) -> str:
    """Return the number of finished runs with a link to the folder of records, and the failed runs."""
    count_text = row.row.failed_share or str(len(row.row.finished))
    records = store.record_file(row.row.key).parent
    return f"[{count_text}]({link(records, folder)})"


def _oracle_line(comparison: Comparison) -> str:
    oracle = comparison.oracle
    if not oracle:
        return ""
    metrics = [number(oracle.get(metric.name), metric.digits) for metric in _METRICS]
    return f"|  | *oracle* |  | {' | '.join(metrics)} |  |  |  |  |\n"
