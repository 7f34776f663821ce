from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from contests import CONTESTS, Line
from figures import END, START, Spread, insert, merge, section, spread, values

from ctrbench.report.leaderboard import END as BOARD_END
from ctrbench.report.leaderboard import START as BOARD_START
from ctrbench.report.leaderboard import update_leaderboard
from ctrbench.runs.store import RunStore

PAGE = f"# Title\n\n{BOARD_START}\nboard\n{BOARD_END}\n\n## The protocol\n\ntail ± without newline"
TWO = {
    "a": {"rows": [20, 60], "seconds": [2.0, 2.0], "peak_bytes": [2_400], "parameters": 100},
    "b": {"rows": [20, 20], "seconds": [1.0, 4.0]},
}


def test_a_ratio_pairs_what_was_done_in_the_same_round() -> None:
    assert values(Line(work="", case="a", other="b"), TWO) == [0.5, 6.0]


def test_a_slowdown_is_the_other_way_round() -> None:
    assert values(Line(work="", case="a", other="b", is_at_most=True), TWO) == [2.0, 1 / 6]


def test_memory_counts_in_gigabytes_or_in_weights_with_their_moments() -> None:
    assert values(Line(work="", case="a", unit="GB"), TWO) == [2.4e-6]
    assert values(Line(work="", case="a", unit="× of parameters"), TWO) == [2.0]


def test_the_middle_of_an_even_number_of_rounds_is_between_two() -> None:
    assert spread([4.0, 1.0, 2.0, 8.0]) == Spread(middle=3.0, low=1.0, high=8.0)


def rows_of(record: dict[str, Any]) -> dict[str, str]:
    lines = [line for line in section(record).splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def test_a_line_has_goal_ratio_range_speeds_and_sizes(record: dict[str, Any]) -> None:
    row = rows_of(record)["plain DNN, batch 256, against FuxiCTR"]
    assert row.endswith("| ≥ 6× | 8× [6–9] | 80,000 rows/s | 10,000 rows/s | 7,000 |")


def test_a_case_that_failed_says_why_in_its_line(record: dict[str, Any]) -> None:
    row = rows_of(record)["plain DNN, batch 256, against DeepCTR-Torch"]
    assert row.endswith("| – (it was out of order) | – | – | – |")


def test_what_was_not_measured_says_so(record: dict[str, Any]) -> None:
    assert "not measured" in rows_of(record)["plain DCNv2, batch 256, against FuxiCTR"]


def test_a_goal_that_was_missed_is_marked(record: dict[str, Any]) -> None:
    rows = rows_of(record)
    assert "| 0.2 s |" in rows["`ctrbench --help`"]
    assert "| ≤ 0.5 s | 0.7 s, missed |" in rows["`ctrbench list methods`"]


def test_every_line_of_every_contest_is_in_a_table(record: dict[str, Any]) -> None:
    works = [line.work for contest in CONTESTS for line in contest.lines]
    assert set(works) <= rows_of(record).keys()


def test_a_new_measurement_takes_the_place_of_its_own_contest_only(record: dict[str, Any]) -> None:
    new = {"schema": 1, "contests": {"cli": {"measured": {}, "cases": {}}}}
    merged = merge(record, new)
    assert merged["contests"] == {"dnn-256": record["contests"]["dnn-256"], **new["contests"]}
    assert merge({}, record) == record


def test_days_and_commits_of_parts_are_all_named(record: dict[str, Any]) -> None:
    later = deepcopy(record["contests"]["cli"])
    later["measured"] |= {"date": "2026-02-01T00:00:00+00:00", "commit": "fedcba9876543210+"}
    head = section(merge(record, {"contests": {"cli": later}})).splitlines()[0]
    assert head.endswith("ctrbench at 012345678, fedcba987+; 2026-01-31 to 2026-02-01.")


def test_the_section_is_made_ahead_of_the_protocol() -> None:
    text = insert(PAGE, "block")
    before, after = PAGE.split("\n## The protocol")
    assert text == f"{before}\n## Speed\n\n{START}\nblock\n{END}\n\n## The protocol{after}"


def test_writing_again_changes_what_is_between_the_markers_only() -> None:
    once = insert(PAGE, "old")
    assert insert(once, "new") == once.replace("old", "new")


def test_a_page_without_a_place_for_it_is_an_error() -> None:
    with pytest.raises(ValueError, match="ahead of '## The protocol'"):
        insert("# Title\n", "block")


def test_speed_section_and_leaderboard_leave_each_other_alone(tmp_path: Path) -> None:
    page, store = tmp_path / "BENCHMARKS.md", RunStore(results=tmp_path / "results", home=tmp_path)
    page.write_text(insert(PAGE, "block"))
    update_leaderboard(page, store)
    assert page.read_text() == insert(PAGE.replace("\nboard\n", "\nNo records yet.\n"), "block")
