"""Generated data on the command line: prepare, plan, train, and every way to ask for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Done]
ROWS = ("--rows", "6e3", "--variant", "calibration-rows=16384,shard-rows=1024", "--workers", "1")
NAME = "production-6k-calibration-rows-16384-shard-rows-1024"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own."""
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(ctrbench: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str) -> Done:
        code = ctrbench(*arguments)
        return Done(code, *capfd.readouterr())

    return run


def test_from_rows_to_the_report(place: Path, call: Call) -> None:
    made = call("prepare", "production", *ROWS)
    assert made.returncode == 0, made.stderr
    assert "50 domains by scenario, ad_position, user_profile" in made.stdout
    run = call("run", "--preset", "production", "--backbone", "dnn[hidden=8]", "--window", "2e3")
    assert run.returncode == 0, run.stderr
    (file,) = (place / "results" / NAME).iterdir()
    record = json.loads(file.read_text())
    assert record["key"]["train"]["window"] == 2000
    assert record["key"]["train"]["batch_size"] == 1024
    assert record["key"]["backbone"]["settings"]["hidden"] == [8]
    oracle, test = record["result"]["oracle"], record["result"]["test"]
    assert oracle["auc_expected"] > 0.7
    assert {"ceiling_auc", "ceiling_logloss"} <= set(oracle)
    assert test["auc"] < oracle["auc_expected"]
    report = call("report")
    assert report.returncode == 0, report.stderr
    assert "Distance from the truth" in (place / "report" / "overall.md").read_text()


def test_the_preset_sets_the_tower(call: Call, place: Path) -> None:
    call("prepare", "production", *ROWS)
    run = call("run", "--preset", "production", "--embedding-size", "2", "--backbone", "dnn,dcnv2[layers=1]")
    assert run.returncode == 0, run.stderr
    records = [json.loads(file.read_text()) for file in sorted((place / "results" / NAME).iterdir())]
    assert [record["key"]["backbone"]["settings"]["hidden"] for record in records] == [[512, 256, 128]] * 2
    assert {"window", "workers"}.isdisjoint(records[0]["key"]["train"])


def test_on_the_fly_trains_as_stored_rows_do(place: Path, call: Call) -> None:
    run = ("run", "--backbone", "dnn[hidden=8]", "--window", "2e3", "--epochs", "1")
    digests = []
    for how in ((), ("--on-the-fly",)):
        made = call("prepare", "production", *ROWS, *how)
        assert made.returncode == 0, made.stderr
        results = place / f"results{len(digests)}"
        assert call(*run, "--results", str(results)).returncode == 0
        (file,) = (results / NAME).iterdir()
        digests.append(json.loads(file.read_text())["result"]["predictions_sha256"])
    assert digests[0] == digests[1]


def test_a_plan_makes_nothing(place: Path, call: Call) -> None:
    plan = call("prepare", "production", "--rows", "2.2e9", "--plan")
    assert plan.returncode == 0, plan.stderr
    for part in (
        "2,200,000,000 rows, 5,000 domains",
        "GB on disk",
        "rows/s",
        "hours on this machine",
        "4 machines",
    ):
        assert part in plan.stdout
    assert not (place / "home").exists()


def test_a_plan_heeds_what_it_is_asked(call: Call) -> None:
    plan = call("prepare", "production", "--rows", "2.2e9", "--plan", "--on-the-fly", "--workers", "3")
    assert plan.returncode == 0, plan.stderr
    assert "nothing on disk: every reading makes the rows anew" in plan.stdout
    assert "hours on this machine (3 processes)" in plan.stdout
    assert "hours on 4 machines like it (12 processes)" in plan.stdout


def test_raw_shards(place: Path, call: Call) -> None:
    made = call("synth", "production", "--out", "raw", *ROWS)
    assert made.returncode == 0, made.stderr
    again = "ctrbench prepare production --rows 6000 --variant calibration_rows=16384,shard_rows=1024"
    assert again in made.stdout
    frame = pl.read_parquet(place / "raw" / "shard-*.parquet")
    assert frame["row"].to_list() == list(range(6000))
    assert {"probability", "ceiling", "bid", "price", "cost", "label"} <= set(frame.columns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "production", "--rows", "few"], "rows are a whole number"),
        (["prepare", "production", "--size", "tiny"], "no such preset"),
        (["prepare", "production", "--rows", "6e3", "--variant", "nul"], "did you mean 'null'"),
        (["prepare", "movielens-1m", "--rows", "6e3"], "an option of generated data: --rows"),
        (["prepare", "movielens-1m", "--on-the-fly"], "an option of generated data: --on-the-fly"),
        (["prepare", "production", "--rows", "6e3", "--address", "here:1"], "add --engine ray"),
        (["prepare", "production", "--rows", "6e3", "--engine", "spark"], "no such engine"),
        (["prepare", "production", "--rows", "6e3", "--engine", "ray", "--workers", "2"], "leave it out"),
        (["prepare", "production", "--rows", "6e3", "--domains", "itme_id,gender"], "did you mean"),
        (["prepare", "production", "--rows", "6e3", "--domains", "itme_id", "--plan"], "did you mean"),
        (["prepare", "movielens-1m", "--engine", "ray"], "an option of generated data: --engine"),
        (["prepare", "production", "--rows", "6e3", "--source", "x.csv"], "--source"),
        (["run", "--preset", "productoin"], "did you mean 'production'"),
    ],
)
def test_bad_input_is_one_clear_error(call: Call, arguments: list[str], message: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "some"], "--window is a whole number"),
        (["--window", "inf"], "--window is a whole number"),
        (["--workers", "2", "--jobs", "2"], "leave out --jobs"),
        (["--engine", "ray", "--address", "127.0.0.1:9"], "127.0.0.1:9"),
    ],
)
def test_bad_input_of_run_is_one_clear_error(call: Call, arguments: list[str], message: str) -> None:
    call("prepare", "production", *ROWS)
    done = call("run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
