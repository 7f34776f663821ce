from __future__ import annotations

from pathlib import Path

import pytest
from bench_peers import chosen, record_file, refuse_other_sizes, rotated, run_contest, take_turn
from contestants import Failed, Setting
from contests import CONTESTS, Case, Contest
from worker import Supply

from ctrbench.runs.store import RunStore
from ctrbench.storage.files import write_text


def test_the_order_is_rotated_from_round_to_round() -> None:
    assert [rotated(["a", "b", "c"], number) for number in (0, 1, 5)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
    ]


def test_names_of_contests_and_cases_are_unique() -> None:
    assert len({contest.name for contest in CONTESTS}) == len(CONTESTS)
    for contest in CONTESTS:
        names = {case.name for case in contest.cases}
        assert len(names) == len(contest.cases)
        assert {name for line in contest.lines for name in (line.case, line.other) if name} <= names


def test_a_group_is_a_name_or_its_prefix() -> None:
    assert [contest.name for contest in chosen(["metrics-1m"])] == ["metrics-1m"]
    assert [contest.name for contest in chosen(["star-5000", "cli"])] == [
        "star-5000-256",
        "star-5000-4096",
        "cli",
    ]
    assert chosen(None) == CONTESTS
    with pytest.raises(SystemExit, match="no such group"):
        chosen(["metric"])


def test_a_failed_case_has_no_further_turn() -> None:
    calls = []

    def turn() -> dict[str, float]:
        calls.append(1)
        raise Failed("broken")

    result: dict[str, object] = {"rows": []}
    take_turn(turn, result)
    take_turn(turn, result)
    assert (result, calls) == ({"rows": [], "error": "broken"}, [1])


def test_other_sizes_need_a_note() -> None:
    results = [{"parameters": 10_000}, {"parameters": 10_001}, {"parameters": 20_000}]
    explained = {"parameters": 20_000, "note": "as its template has them"}
    refuse_other_sizes([*results, explained])
    assert [result.get("error") for result in (*results, explained)] == [
        None,
        None,
        "20,000 parameters instead of 10,000",
        None,
    ]


def test_a_turn_yields_at_least_one_batch_and_the_next_continues_the_cycle() -> None:
    supply, seen = Supply(["a", "b"], batch_size=4), []
    rows = [supply.rows_of(lambda: seen.extend(supply.turn(0.0))) for _ in range(3)]
    assert (rows, seen) == ([4, 4, 4], ["a", "b", "a"])


def test_speed_records_are_not_read_as_run_records(tmp_path: Path) -> None:
    file = record_file(tmp_path / "speed", 2)
    write_text(file, "{}")
    assert file.parent.name.endswith("2-threads")
    assert list(RunStore(results=tmp_path, home=tmp_path).records()) == []


def test_our_worker_trains_and_reports_an_unknown_method(tmp_path: Path) -> None:
    def steps(method: str) -> Case:
        settings = {"kind": "steps", "method": method, "backbone": "dnn[hidden=8]", "batch": 64, "data": "10"}
        return Case(name=method, library="ours", settings=settings)

    setting = Setting(
        rounds=2, seconds=0.01, threads=1, peers_python=tmp_path, checkouts={}, scratch=tmp_path, share=2e-4
    )
    contest = Contest(name="small", cases=(steps("plain"), steps("no-such")), lines=())
    results = run_contest(contest, setting)
    assert len(results["plain"]["rows"]) == len(results["plain"]["seconds"]) == 2
    assert min(results["plain"]["rows"]) > 0
    assert results["plain"]["peak_bytes"][0] >= 0
    assert "no-such" in results["no-such"]["error"]
