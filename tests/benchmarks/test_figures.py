from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from contests import CONTESTS, Line
from figures import END, START, Range, insert, merge, range_of, ratios, section

PAGE = f"# Title\n\n{START}\nold\n{END}\n\ntail ± without newline"
TWO = {
    "a": {"rows": [20, 60], "seconds": [2.0, 2.0], "peak_bytes": [2_400], "parameters": 100},
    "b": {"rows": [20, 20], "seconds": [1.0, 4.0]},
}


def test_a_ratio_pairs_the_cases_by_round() -> None:
    assert ratios(Line(work="", case="a", other="b"), TWO) == [0.5, 6.0]


def test_a_slowdown_is_inverted() -> None:
    assert ratios(Line(work="", case="a", other="b", is_slowdown=True), TWO) == [2.0, 1 / 6]


def test_memory_is_relative_to_weights_with_their_moments() -> None:
    assert ratios(Line(work="", case="a"), TWO) == [2.0]


def test_the_median_of_an_even_number_of_rounds_is_between_two() -> None:
    assert range_of([4.0, 1.0, 2.0, 8.0]) == Range(median=3.0, low=1.0, high=8.0)


def rows_of(record: dict[str, Any]) -> dict[str, str]:
    lines = [line for line in section(record).splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def test_a_line_has_ratio_range_and_sizes(record: dict[str, Any]) -> None:
    row = rows_of(record)["plain DNN, batch 256, against FuxiCTR"]
    assert row.endswith("FuxiCTR | 8× [6–9] | 7,000 |")


def test_a_case_that_failed_says_why_in_its_line(record: dict[str, Any]) -> None:
    row = rows_of(record)["plain DNN, batch 256, against DeepCTR-Torch"]
    assert row.endswith("| – (it was out of order) | – |")


def test_contests_without_a_measurement_say_so(record: dict[str, Any]) -> None:
    assert "not measured" in rows_of(record)["plain DCNv2, batch 256, against FuxiCTR"]


def test_every_line_of_every_contest_is_in_the_table(record: dict[str, Any]) -> None:
    works = [line.work for contest in CONTESTS for line in contest.lines]
    assert set(works) <= rows_of(record).keys()


def test_a_new_measurement_replaces_its_own_contest_only(record: dict[str, Any]) -> None:
    new = {"schema": 1, "contests": {"cli": {"measured": {}, "cases": {}}}}
    merged = merge(record, new)
    assert merged["contests"] == {"dnn-256": record["contests"]["dnn-256"], **new["contests"]}
    assert merge({}, record) == record


def test_days_and_commits_of_parts_are_all_named(record: dict[str, Any]) -> None:
    later = deepcopy(record["contests"]["cli"])
    later["measured"] |= {"date": "2026-02-01T00:00:00+00:00", "commit": "fedcba9876543210+"}
    head = section(merge(record, {"contests": {"cli": later}})).splitlines()[0]
    assert head.endswith("ctrbench at 012345678, fedcba987+; 2026-01-31 to 2026-02-01.")


def test_only_the_text_between_the_markers_changes() -> None:
    assert insert(PAGE, "new") == PAGE.replace("old", "new")


@pytest.mark.parametrize("text", ["# Title\n", START, END])
def test_a_page_without_markers_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        insert(text, "block")
