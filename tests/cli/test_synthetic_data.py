"""Synthetic data on the command line: prepare, dry run, train, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import polars as pl
import pytest

Call = Callable[..., CompletedProcess[str]]
pytestmark = pytest.mark.usefixtures("trained_here")
ROWS = ("--rows", "6e3", "--variant", "calibration-rows=16384,shard-rows=1024", "--jobs", "1")
NAME = "production-6k-calibration-rows-16384-shard-rows-1024"


def test_from_rows_to_the_report(folder: Path, call: Call) -> None:
    made = call("prepare", "production", *ROWS)
    assert made.returncode == 0, made.stderr
    assert "50 domains by scenario, ad_position, user_profile" in made.stdout
    run = call("run", "--preset", "production", "--backbone", "dnn[hidden=8]", "--window", "2e3")
    assert run.returncode == 0, run.stderr
    (file,) = (folder / "results" / NAME).iterdir()
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
    assert "Distance from the truth" in (folder / "report" / "overall.md").read_text()


def test_the_preset_sets_the_tower(folder: Path, call: Call) -> None:
    call("prepare", "production", *ROWS)
    run = call("run", "--preset", "production", "--embedding-size", "2", "--backbone", "dnn,dcnv2[layers=1]")
    assert run.returncode == 0, run.stderr
    records = [json.loads(file.read_text()) for file in sorted((folder / "results" / NAME).iterdir())]
    assert [record["key"]["backbone"]["settings"]["hidden"] for record in records] == [[512, 256, 128]] * 2
    assert {"window", "workers"}.isdisjoint(records[0]["key"]["train"])


def test_on_the_fly_trains_as_stored_rows_do(folder: Path, call: Call) -> None:
    run = ("run", "--backbone", "dnn[hidden=8]", "--window", "2e3", "--epochs", "1")
    digests = []
    for how in ((), ("--on-the-fly",)):
        made = call("prepare", "production", *ROWS, *how)
        assert made.returncode == 0, made.stderr
        results = folder / f"results{len(digests)}"
        assert call(*run, "--results", str(results)).returncode == 0
        (file,) = (results / NAME).iterdir()
        digests.append(json.loads(file.read_text())["result"]["predictions_sha256"])
    assert digests[0] == digests[1]


def test_a_dry_run_writes_nothing(folder: Path, call: Call) -> None:
    done = call("prepare", "production", "--rows", "2.2e9", "--dry-run")
    assert done.returncode == 0, done.stderr
    for part in (
        "2,200,000,000 rows, 5,000 domains",
        "GB on disk",
        "rows/s",
        "hours on this machine",
        "4 machines",
    ):
        assert part in done.stdout
    assert not (folder / "home").exists()


def test_a_dry_run_respects_jobs_and_storage(folder: Path, call: Call) -> None:
    done = call("prepare", "production", "--rows", "2.2e9", "--dry-run", "--on-the-fly", "--jobs", "3")
    assert done.returncode == 0, done.stderr
    assert "no disk space: rows are generated again each time they are read" in done.stdout
    assert "hours on this machine (3 processes)" in done.stdout
    assert "hours on 4 machines like it (12 processes)" in done.stdout


def test_rows_are_exported_for_other_programs(folder: Path, call: Call) -> None:
    done = call("prepare", "production", *ROWS, "--export", "raw")
    assert done.returncode == 0, done.stderr
    assert f"exported: {folder / 'raw'}" in done.stdout
    frame = pl.read_parquet(folder / "raw" / "*.parquet")
    assert sorted(frame["row"]) == list(range(6000))
    assert {"probability", "label", "split"} <= set(frame.columns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "production", "--rows", "few"], "rows must be a whole number"),
        (["prepare", "production", "--rows", "200n"], "did you mean '200m'"),
        (["prepare", "production", "--rows", "6e3", "--variant", "nul"], "did you mean 'null'"),
        (["prepare", "movielens-1m", "--rows", "6e3"], "must be used with a generated dataset: --rows"),
        (["prepare", "movielens-1m", "--on-the-fly"], "must be used with a generated dataset: --on-the-fly"),
        (["prepare", "production", "--rows", "6e3", "--address", "here:1"], "add --engine ray"),
        (["prepare", "production", "--rows", "6e3", "--engine", "spark"], "unknown engine"),
        (["prepare", "production", "--rows", "6e3", "--engine", "ray", "--jobs", "2"], "remove it"),
        (["prepare", "production", "--rows", "6e3", "--domains", "itme_id,gender"], "did you mean"),
        (["prepare", "production", "--rows", "6e3", "--domains", "itme_id", "--dry-run"], "did you mean"),
        (["prepare", "movielens-1m", "--engine", "ray"], "must be used with a generated dataset: --engine"),
        (
            ["prepare", "production", "--rows", "6e3", "--source", "x.csv"],
            "--source must not be used with generated data",
        ),
        (["prepare", "movielens-1m", "--dry-run"], "must be used with a generated dataset: --dry-run"),
    ],
)
def test_bad_input_is_one_clear_error(folder: Path, call: Call, arguments: list[str], message: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
