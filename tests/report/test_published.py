"""Published reports and the leaderboard are those of the published records."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.report.comparison import collect
from ctrbench.report.csv_files import bins_csv, overall_csv
from ctrbench.report.leaderboard import update_leaderboard
from ctrbench.report.summary import Summary, summarize
from ctrbench.runs.store import RunStore

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "docs" / "reports"


@pytest.fixture
def published(tmp_path: Path) -> RunStore:
    return RunStore(results=ROOT / "results", home=tmp_path)


def metrics_of(text: str) -> set[str]:
    return {row["metric"] for row in csv.DictReader(io.StringIO(text))}


def of_metrics(text: str, metrics: set[str]) -> str:
    """Return the lines of these metrics: a metric that is newer than the published file is in no line of it."""
    head, *lines = text.splitlines(keepends=True)
    rows = zip(lines, csv.DictReader(io.StringIO(text)), strict=True)
    return head + "".join(line for line, row in rows if row["metric"] in metrics)


def split(text: str) -> tuple[list[str], list[float]]:
    """Return the cells of a CSV file that are texts, in order, and those that are numbers."""
    texts, numbers = [], []
    for cell in (cell for line in csv.reader(io.StringIO(text)) for cell in line):
        try:
            numbers.append(float(cell))
        except ValueError:
            texts.append(cell)
    return texts, numbers


@pytest.mark.parametrize("dataset", ["movielens-1m", "production-2m-null"])
@pytest.mark.parametrize(("file", "write"), [("overall.csv", overall_csv), ("bins.csv", bins_csv)])
def test_published_numbers_follow_from_the_records(
    published: RunStore, dataset: str, file: str, write: Callable[[list[Summary]], str]
) -> None:
    summaries = [summarize(comparison) for comparison in collect(published, dataset=dataset)]
    expected = (REPORTS / dataset / file).read_text(encoding="utf-8")
    texts, numbers = split(of_metrics(write(summaries), metrics_of(expected)))
    expected_texts, expected_numbers = split(expected)
    assert texts == expected_texts
    # Processors may differ in the last digits.
    assert numbers == pytest.approx(expected_numbers, rel=1e-12)


def test_the_leaderboard_follows_from_the_records(published: RunStore, tmp_path: Path) -> None:
    board = ROOT / "BENCHMARKS.md"
    copy = Path(shutil.copy(board, tmp_path / board.name))
    update_leaderboard(copy, published)
    # Links are relative to the folder of the file, so they differ.
    assert without_links(copy) == without_links(board)


def without_links(file: Path) -> list[str]:
    return [line.split("](")[0] for line in file.read_text(encoding="utf-8").splitlines()]
