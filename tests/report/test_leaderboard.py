from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ctrbench.errors import StoreError
from ctrbench.report.comparison import compare
from ctrbench.report.leaderboard import END, START, update_leaderboard
from ctrbench.report.summary import summarize
from ctrbench.runs.record import Parameters, RunRecord
from ctrbench.runs.store import RunStore

NOISE = (0.0, 0.001, -0.001, 0.002, -0.002, 0.0)


def runs(record: Callable[..., RunRecord], **means: float) -> list[RunRecord]:
    return [record(name, s, mean + noise) for name, mean in means.items() for s, noise in enumerate(NOISE)]


@pytest.fixture
def board(tmp_path: Path) -> Path:
    file = tmp_path / "BENCHMARKS.md"
    file.write_bytes(f"# Title\r\n{START}\nold\n{END}\n\ntail ± without newline".encode())
    return file


def test_text_outside_the_markers_is_untouched(board: Path, store: RunStore, toy: list[RunRecord]) -> None:
    for run in toy:
        store.write(run)
    update_leaderboard(board, store)
    before, _, rest = board.read_bytes().decode().partition(START)
    block, _, after = rest.partition(END)
    assert (before, after) == ("# Title\r\n", "\n\ntail ± without newline")
    assert "old" not in block
    assert [file.name for file in board.parent.iterdir()].count("BENCHMARKS.md") == 1


def test_writing_twice_changes_nothing(board: Path, store: RunStore, toy: list[RunRecord]) -> None:
    for run in toy:
        store.write(run)
    first = update_leaderboard(board, store).read_bytes()
    assert update_leaderboard(board, store).read_bytes() == first


@pytest.mark.parametrize("text", ["", START, f"{END}\n{START}", f"{START}{END}{START}{END}"])
def test_missing_or_swapped_markers_are_an_error(board: Path, store: RunStore, text: str) -> None:
    board.write_text(text)
    with pytest.raises(StoreError, match="two markers"):
        update_leaderboard(board, store)
    assert board.read_text() == text


def test_a_missing_file_is_an_error(tmp_path: Path, store: RunStore) -> None:
    with pytest.raises(StoreError, match="no such file"):
        update_leaderboard(tmp_path / "none.md", store)


def test_a_row_links_to_the_folder_of_its_records(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    text = board_of(board, store, runs(record, plain=0.7))
    assert lines(text)["plain"][-1] == "[6](results/toy)"
    assert len(list((board.parent / "results/toy").iterdir())) == 6


def test_a_table_has_one_command(board: Path, store: RunStore, record: Callable[..., RunRecord]) -> None:
    text = board_of(board, store, runs(record, plain=0.7, apg=0.75))
    assert text.count("\nctrbench run --dataset toy ") == 1
    assert "--methods plain,apg " in text


def test_every_dataset_has_a_table(board: Path, store: RunStore, record: Callable[..., RunRecord]) -> None:
    for name in ("toy", "other"):
        store.write(record(dataset=name))
    text = update_leaderboard(board, store).read_text()
    assert "### toy · domains a × b" in text
    assert "### other · domains a × b" in text


def lines(text: str) -> dict[str, list[str]]:
    """Return the cells of each row of the board, by method."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {row[1]: row for row in cells[2:]}


def board_of(board: Path, store: RunStore, records: Iterable[RunRecord]) -> str:
    for run in records:
        store.write(run)
    return update_leaderboard(board, store).read_text(encoding="utf-8")


def close_race(record: Callable[..., RunRecord]) -> list[RunRecord]:
    """Star is ahead of apg by 0.0002 on average, with seeds that disagree about who is ahead; plain is far behind."""
    jumps = (0.003, -0.003, 0.002, -0.002, 0.001, 0.0002)
    star = [record("star", s, 0.75 + NOISE[s] + jump) for s, jump in enumerate(jumps)]
    return [*runs(record, plain=0.70, apg=0.75), *star]


def test_settings_of_other_datasets_do_not_lengthen_labels(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    records = [record("apg", settings={"rank": 8}), record("apg", dataset="other", settings={"rank": 4})]
    assert "rank=" not in board_of(board, store, records).partition("<details>")[0]


def ranks(records: list[RunRecord]) -> dict[str, tuple[int, int] | None]:
    (comparison,) = compare(records)
    rows = summarize(comparison).rows
    return {row.row.method: (row.rank.first, row.rank.last) if row.rank else None for row in rows}


def test_ranks_are_those_that_intervals_leave_possible(
    record: Callable[..., RunRecord], with_users: Callable[[list[RunRecord]], list[RunRecord]]
) -> None:
    assert ranks(with_users(close_race(record))) == {"star": (1, 2), "apg": (1, 2), "plain": (3, 3)}


def test_without_influences_every_rank_is_possible(record: Callable[..., RunRecord]) -> None:
    assert set(ranks(close_race(record)).values()) == {(1, 3)}


def test_the_board_shows_ranks_gains_and_verdicts(
    board: Path,
    store: RunStore,
    record: Callable[..., RunRecord],
    with_users: Callable[[list[RunRecord]], list[RunRecord]],
) -> None:
    rows = lines(board_of(board, store, with_users(close_race(record))))
    assert list(rows) == ["star", "apg", "plain"]
    assert [row[0] for row in rows.values()] == ["1–2", "1–2", "3"]
    assert [row[7] for row in rows.values()] == ["better", "better", "–"]
    assert rows["apg"][6].startswith("+0.0500 (+0.04")


def test_five_seeds_have_a_note_and_no_verdict(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    text = board_of(board, store, (run for run in close_race(record) if run.key.seed < 5))
    assert "better" not in text
    assert {row[7] for row in lines(text).values()} == {"–", "too few seeds"}
    assert text.count("Too few seeds for verdicts and ranks (fewer than 6).") == 1


def collapsing(record: Callable[..., RunRecord], name: str, mean: float) -> list[RunRecord]:
    """Ten runs, two of which end with a dev AUC of chance."""
    dev = [{"auc": 0.5 if seed < 2 else 0.7, "logloss": 0.6} for seed in range(10)]
    return [record(name, seed, mean, dev=dev[seed]) for seed in range(10)]


def test_a_row_with_failures_counts_them_and_ranks_last(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    text = board_of(board, store, [*runs(record, plain=0.70, star=0.71), *collapsing(record, "apg", 0.75)])
    rows = lines(text)
    assert list(rows) == ["star", "plain", "apg"]
    assert [rows[method][0] for method in rows] == ["1–2", "1–2", "3"]
    assert rows["apg"][7] == "undecided"
    assert rows["apg"][-1] == "[2 of 10 failed](results/toy)"
    assert "Failed: apg on dnn, seed 0, 1: training collapsed (dev AUC 0.500, 0.500)" in text


def test_runs_without_a_result_count_as_failed(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    broken = [record("apg", seed, status="failed", error="no memory") for seed in (6, 7)]
    rows = lines(board_of(board, store, [*runs(record, plain=0.70, apg=0.75), *broken]))
    assert [rows[method][0] for method in rows] == ["1", "2"]
    assert rows["apg"][-1] == "[2 of 8 failed](results/toy)"


def test_a_method_without_a_finished_run_has_a_row(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    broken = [record("apg", seed, status="failed", error="no memory") for seed in (1, 2)]
    rows = lines(board_of(board, store, [record("plain"), *broken]))
    assert rows["apg"][0] == "–"
    assert rows["apg"][-1] == "[2 of 2 failed](results/toy)"


@pytest.mark.parametrize(
    ("dataset", "oracle", "heading"),
    [
        ("toy", {}, "### toy · domains a × b\n\n|"),
        ("toy", {"auc": 0.8}, "### toy · domains a × b (synthetic data)\n\n**Synthetic data:"),
    ],
)
def test_headings_name_synthetic_data(
    board: Path,
    store: RunStore,
    record: Callable[..., RunRecord],
    dataset: str,
    oracle: dict[str, float],
    heading: str,
) -> None:
    assert heading in board_of(board, store, [record(dataset=dataset, oracle=oracle)])


@pytest.mark.parametrize("name", ["toy-null-strict", "production-20m"])
def test_null_and_production_data_are_not_listed(
    board: Path, store: RunStore, record: Callable[..., RunRecord], name: str
) -> None:
    text = board_of(board, store, [record(dataset=name, oracle={"auc": 0.8}), record()])
    assert name not in text
    assert "### toy ·" in text


def test_rows_with_too_few_seeds_are_not_ranked(record: Callable[..., RunRecord]) -> None:
    ranked = ranks([*runs(record, plain=0.70), record("apg", 0, 0.99)])
    assert ranked == {"plain": (1, 1), "apg": None}


def test_the_leaderboard_names_the_indicator(
    board: Path, store: RunStore, record: Callable[..., RunRecord]
) -> None:
    store.write(record("star", parameters=Parameters(embedding=1, dense=1, per_domain=5)))
    text = update_leaderboard(board, store).read_text()
    assert "Per-domain parameters are indexed by a.\n\n<details>" in text
