"""The leaderboard block of BENCHMARKS.md: every comparison in the results folder, a row a method and backbone.

The block stands between two markers and is made anew from all records each time; what stands outside is never
touched. A row links to its records and names the command that repeats it. Ranks follow the mean AUC. Rows with fewer
than `MIN_SEEDS` seeds are neither ranked nor tested, and a row with failed runs comes after all rows without.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctrbench.errors import StoreError
from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.names import Metric
from ctrbench.report.commands import run_command
from ctrbench.report.comparison import Comparison, Row, compare, stand
from ctrbench.report.formats import markdown_text
from ctrbench.report.tables import (
    DASH,
    DIGITS,
    Cell,
    Mark,
    cell,
    count,
    indicator_note,
    mark_of,
    number,
    seeds_note,
)
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import Location, is_local, write_text

START, END = "<!-- leaderboard:start -->", "<!-- leaderboard:end -->"
_HEAD = ("rank", "method", "backbone", "AUC", "GAUC", "LogLoss", "parameters", "seeds and records")


def update_leaderboard(benchmarks: Path, store: RunStore) -> Path:
    """Rewrite the block of a file from all records of a store, in one move.

    Raises `StoreError` for a file that is not there or has not exactly one pair of markers, in order.
    """
    text = _read(benchmarks)
    before, after = _outside(text, benchmarks)
    block = leaderboard(_by_dataset(store.records()), store, folder=benchmarks.parent)
    return write_text(benchmarks, f"{before}{START}\n{block}{END}{after}")


def _by_dataset(records: Iterable[RunRecord]) -> list[Comparison]:
    """Compare each dataset by itself, so that settings used on others do not lengthen its labels."""
    datasets: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        datasets[record.key.dataset].append(record)
    return [comparison for name in sorted(datasets) for comparison in compare(datasets[name])]


def leaderboard(comparisons: Sequence[Comparison], store: RunStore, *, folder: Path) -> str:
    """Return the block as Markdown; links are relative to `folder`."""
    parts = [_board(one, store, folder) for one in comparisons if any(map(_is_shown, one.rows))]
    return "\n".join(parts) if parts else "No records yet.\n"


def ranks(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Rank rows by mean AUC, those with failed runs after those without; equal means share a rank.

    Rows with fewer than `MIN_SEEDS` results are not ranked and move no other row's rank.
    """
    order = {(row.backbone, row.method): _by_auc(row)[:2] for row in rows if len(row.results) >= MIN_SEEDS}
    return {name: str(1 + sum(other < own for other in order.values())) for name, own in order.items()}


def _read(benchmarks: Path) -> str:
    try:
        # Bytes, since reading as text would turn the line ends of a file from elsewhere.
        return benchmarks.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise StoreError(
            "no such file for the leaderboard", value=benchmarks, remedy=f"make one with {START} and {END}"
        ) from None


def _outside(text: str, benchmarks: Path) -> tuple[str, str]:
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in before or END in after:
        raise StoreError(
            "the leaderboard stands between two markers, each once and in order",
            value=benchmarks,
            remedy=f"write {START} and, below it, {END} where the leaderboard belongs",
        )
    return before, after


def _board(comparison: Comparison, store: RunStore, folder: Path) -> str:
    rows = sorted(filter(_is_shown, comparison.rows), key=_by_auc)
    rank = ranks(rows)
    full = [row for row in rows if len(row.results) >= MIN_SEEDS]
    mark = {name: mark_of(standing) for name, standing in stand(full, Metric.AUC).items()}
    head = f"| {' | '.join(_HEAD)} |\n| --: | :-- | :-- | --: | --: | --: | --: | :-- |"
    body = "\n".join(
        _line(row, rank.get(name, DASH), mark.get(name, Mark.NONE), store, folder)
        for row in rows
        for name in [(row.backbone, row.method)]
    )
    oracle = _oracle_line(comparison)
    commands = "\n".join(run_command(row) for row in rows)
    notes = "".join(f"{markdown_text(note)}\n\n" for note in _notes(comparison))
    kind = f" ({comparison.kind})" if comparison.kind else ""
    notice = f"**{markdown_text(comparison.notice)}**\n\n" if comparison.notice else ""
    return (
        f"### {markdown_text(comparison.title)}{kind}\n\n{notice}{head}\n{body}\n{oracle}\n{notes}"
        f"<details><summary>Make a row again</summary>\n\n```sh\n{commands}\n```\n\n</details>\n"
    )


def _is_shown(row: Row) -> bool:
    """Return whether a row has runs to show: finished, or failed."""
    return bool(row.finished or row.num_failed)


def _notes(comparison: Comparison) -> Iterable[str]:
    yield seeds_note(comparison, family="the other rows of the table")
    yield from comparison.collapses
    yield from indicator_note(comparison)


def _by_auc(row: Row) -> tuple[bool, float, str, str]:
    found = row.estimate(Metric.AUC)
    return row.num_failed > 0, -(found.mean if found else 0.0), row.backbone, row.method


def _line(row: Row, rank: str, mark: Mark, store: RunStore, folder: Path) -> str:
    marks = {Metric.AUC: mark}
    metrics = [
        _shown(cell(row.estimate(metric), DIGITS[metric], mark=marks.get(metric, Mark.NONE)))
        for metric in (Metric.AUC, Metric.GAUC, Metric.LOGLOSS)
    ]
    parameters = row.parameters
    total = count(sum(parameters.model_dump().values())) if parameters else DASH
    names = [markdown_text(row.method), markdown_text(row.backbone)]
    links = " ".join(filter(None, [row.failed_share, *_links(row, store, folder)]))
    return f"| {' | '.join([rank, *names, *metrics, total, links])} |"


def _shown(found: Cell) -> str:
    sign = f" {found.mark}" if found.mark is Mark.NOT_SIGNIFICANT else ""
    return f"{found.text} ± {found.spread}{sign}" if found.spread else found.text


def _links(row: Row, store: RunStore, folder: Path) -> Iterable[str]:
    for record in row.finished:
        yield f"[{record.key.seed}]({_link(store.record_file(record.key), folder)})"


def _link(file: Location, folder: Path) -> str:
    """From a folder to a file of this machine, else the address."""
    return Path(os.path.relpath(file, folder)).as_posix() if is_local(file) else str(file)


def _oracle_line(comparison: Comparison) -> str:
    oracle = comparison.oracle
    if not oracle:
        return ""
    metrics = [
        number(oracle.get(metric), DIGITS[metric]) for metric in (Metric.AUC, Metric.GAUC, Metric.LOGLOSS)
    ]
    return f"|  | *oracle* |  | {' | '.join(metrics)} |  |  |\n"
