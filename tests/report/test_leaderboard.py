from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.errors import StoreError
from ctrbench.report.comparison import compare
from ctrbench.report.leaderboard import END, START, ranks, update_leaderboard
from ctrbench.runs.record import Parameters, RunRecord
from ctrbench.runs.store import RunStore

NOISE = (0.0, 0.001, -0.001, 0.002, -0.002)


def runs(record: Callable[..., RunRecord], **means: float) -> list[RunRecord]:
    return [record(name, s, mean + noise) for name, mean in means.items() for s, noise in enumerate(NOISE)]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    file = tmp_path / "BENCHMARKS.md"
    file.write_bytes(f"# Title\r\n{START}\nold\n{END}\n\ntail ± without newline".encode())
    return file


def test_text_outside_the_markers_is_untouched(board: Path, store: RunStore, toy: list[RunRecord]) -> None:
    for made in toy:
        store.write(made)
    update_leaderboard(board, store)
    before, _, rest = board.read_bytes().decode().partition(START)
    block, _, after = rest.partition(END)
    assert (before, after) == ("# Title\r\n", "\n\ntail ± without newline")
    assert "old" not in block
    assert [file.name for file in board.parent.iterdir()].count("BENCHMARKS.md") == 1


def test_writing_twice_changes_nothing(board: Path, store: RunStore, toy: list[RunRecord]) -> None:
    for made in toy:
        store.write(made)
    first = update_leaderboard(board, store).read_bytes()
    assert update_leaderboard(board, store).read_bytes() == first


@pytest.mark.parametrize("text", ["", START, f"{END}\n{START}", f"{START}{END}{START}{END}"])
def test_missing_or_crossed_markers_are_an_error(board: Path, store: RunStore, text: str) -> None:
    board.write_text(text)
    with pytest.raises(StoreError, match="between two markers"):
        update_leaderboard(board, store)
    assert board.read_text() == text


def test_a_missing_file_is_an_error(tmp_path: Path, store: RunStore) -> None:
    with pytest.raises(StoreError, match="no such file"):
        update_leaderboard(tmp_path / "none.md", store)


def test_a_row_links_to_its_records_and_says_how_to_make_them(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    made = record("plain", 1, 0.7)
    file = store.write(made)
    text = update_leaderboard(board, store).read_text()
    assert f"[1](results/toy/{file.name})" in text
    assert (board.parent / f"results/toy/{file.name}").exists()
    assert "\nctrbench run --dataset toy " in text


def test_every_dataset_stays_on_the_board(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    for name in ("toy", "other"):
        store.write(record(dataset=name))
    text = update_leaderboard(board, store).read_text()
    assert "### toy · domains a × b" in text
    assert "### other · domains a × b" in text


def test_rows_tied_with_the_best_share_its_rank(record: Callable[..., RunRecord]) -> None:
    made = runs(record, plain=0.70, apg=0.75)
    # Ahead of apg by 0.0002 on average, with seeds that disagree about who is ahead.
    made += [
        record("star", s, 0.75 + noise + jump)
        for s, (noise, jump) in enumerate(zip(NOISE, (0.003, -0.003, 0.002, -0.002, 0.001), strict=True))
    ]
    (comparison,) = compare(made)
    rows = sorted(comparison.rows, key=lambda row: -row.estimate("auc").mean)
    assert [(row.method, ranks(rows)[row.backbone, row.method]) for row in rows] == [
        ("star", "1="), ("apg", "1="), ("plain", "3"),
    ]  # fmt: skip


def test_rows_with_too_few_seeds_are_not_ranked(record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([*runs(record, plain=0.70), record("apg", 0, 0.99)])
    assert ranks(comparison.rows) == {("dnn", "plain"): "1"}


def test_the_board_names_the_indicator(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    store.write(record("star", parameters=Parameters(embedding=1, dense=1, per_domain=5)))
    assert "What single domains own goes by a.\n\n<details>" in update_leaderboard(board, store).read_text()
