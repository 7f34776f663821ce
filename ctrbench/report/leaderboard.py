"""The leaderboard block of BENCHMARKS.md: every comparison in the results folder, a row a method and backbone.

The block stands between two markers and is made anew from all records each time; what stands outside is never
touched. A row links to its records and names the command that makes it again. Rows with fewer than five seeds are
not ranked: the protocol does not count them as published.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctrbench.errors import StoreError
from ctrbench.names import Metric
from ctrbench.report.commands import run_command
from ctrbench.report.comparison import Comparison, Row, compare, stand
from ctrbench.report.formats import markdown_text
from ctrbench.report.tables import DASH, DIGITS, Cell, Mark, cell, count, indicator_note, mark_of, number
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import Place, write_text

START, END = "<!-- leaderboard:start -->", "<!-- leaderboard:end -->"
MIN_SEEDS = 5
_HEAD = ("rank", "method", "backbone", "AUC", "GAUC", "LogLoss", "parameters", "seeds and records")


def update_leaderboard(benchmarks: Path, store: RunStore) -> Path:
    """Rewrite the block of a file from all records of a store, in one move.

    Raises `StoreError` for a file that is not there or has not exactly one pair of markers, in order.
    """
    text = _read(benchmarks)
    before, after = _outside(text, benchmarks)
    block = leaderboard(compare(store.records()), store, folder=benchmarks.parent)
    return write_text(benchmarks, f"{before}{START}\n{block}{END}{after}")


def leaderboard(comparisons: Sequence[Comparison], store: RunStore, *, folder: Path) -> str:
    """Return the block as Markdown; links are relative to `folder`."""
    parts = [_board(one, store, folder) for one in comparisons if one.records]
    return "\n".join(parts) if parts else "No records yet.\n"


def ranks(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Rank rows, best AUC first; the best shares rank 1 with every row that is tied with it, shown as `1=`.

    Rows with fewer than five seeds are not ranked, and move nobody else's rank.
    """
    full = [row for row in rows if len(row.finished) >= MIN_SEEDS]
    tied = {name for name, one in stand(full, Metric.AUC).items() if mark_of(one) is not Mark.NONE}
    first = "1=" if len(tied) > 1 else "1"
    names = [(row.backbone, row.method) for row in full]
    return {name: first if name in tied else str(place) for place, name in enumerate(names, start=1)}


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
    rows = sorted((row for row in comparison.rows if row.finished), key=_by_auc)
    place = ranks(rows)
    head = f"| {' | '.join(_HEAD)} |\n| --: | :-- | :-- | --: | --: | --: | --: | :-- |"
    body = "\n".join(_line(row, place.get((row.backbone, row.method), DASH), store, folder) for row in rows)
    oracle = _oracle_line(comparison)
    commands = "\n".join(run_command(row) for row in rows)
    notes = "".join(f"{markdown_text(note)}\n\n" for note in indicator_note(comparison))
    return (
        f"### {markdown_text(comparison.title)}\n\n{head}\n{body}\n{oracle}\n{notes}"
        f"<details><summary>Make a row again</summary>\n\n```sh\n{commands}\n```\n\n</details>\n"
    )


def _by_auc(row: Row) -> tuple[float, str, str]:
    found = row.estimate(Metric.AUC)
    return -(found.mean if found else 0.0), row.backbone, row.method


def _line(row: Row, rank: str, store: RunStore, folder: Path) -> str:
    metrics = [
        _shown(cell(row.estimate(metric), DIGITS[metric]))
        for metric in (Metric.AUC, Metric.GAUC, Metric.LOGLOSS)
    ]
    parameters = row.parameters
    total = count(sum(parameters.model_dump().values())) if parameters else DASH
    names = [markdown_text(row.method), markdown_text(row.backbone)]
    return f"| {' | '.join([rank, *names, *metrics, total, ' '.join(_links(row, store, folder))])} |"


def _shown(found: Cell) -> str:
    return f"{found.text} ± {found.spread}" if found.spread else found.text


def _links(row: Row, store: RunStore, folder: Path) -> Iterable[str]:
    for record in row.finished:
        yield f"[{record.key.seed}]({_link(store.record_file(record.key), folder)})"


def _link(file: Place, folder: Path) -> str:
    """From a folder to a file of this machine, else the address."""
    return Path(os.path.relpath(file, folder)).as_posix() if isinstance(file, Path) else str(file)


def _oracle_line(comparison: Comparison) -> str:
    oracle = comparison.oracle
    if not oracle:
        return ""
    metrics = [
        number(oracle.get(metric), DIGITS[metric]) for metric in (Metric.AUC, Metric.GAUC, Metric.LOGLOSS)
    ]
    return f"|  | *oracle* |  | {' | '.join(metrics)} |  |  |\n"
