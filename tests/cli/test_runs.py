"""Commands that train: run, its forecast, its dry run, and the records that a second call does not repeat."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from ctrbench.cli.console import PlainConsole

Call = Callable[..., CompletedProcess[str]]


def test_a_second_call_repeats_no_run(prepared: Path, train: Call) -> None:
    arguments = ("--methods", "plain,adasparse[form=scaling]", "--seeds", "2")
    assert train(*arguments).returncode == 0
    records = sorted((prepared / "results" / "tiny").glob("*.json"))
    assert len(records) == 4
    before = [record.read_bytes() for record in records]
    done = train(*arguments)
    assert done.returncode == 0
    assert "tiny: 4 runs, 4 already finished, 0 to run" in done.stderr
    assert [record.read_bytes() for record in records] == before


@pytest.mark.usefixtures("trained_here")
def test_run_shows_results_and_the_next_command(prepared: Path, train: Call) -> None:
    done = train("--methods", "plain")
    assert "next: ctrbench report --dataset tiny --bins 5 --results results" in done.stdout
    assert re.search(r"plain +dnn +1 +0\.\d{5} +0\.\d{4} +0\.\d{4} +\d\.\d/1\.0 +\d+ ", done.stdout)


@pytest.mark.usefixtures("trained_here")
def test_a_dry_run_lists_runs_and_trains_nothing(prepared: Path, train: Call) -> None:
    assert train("--methods", "plain").returncode == 0
    done = train("--methods", "plain,star", "--dry-run")
    assert done.returncode == 0
    assert re.search(r"plain +dnn\[hidden=8-4\] +1 +finished", done.stdout)
    assert re.search(r"star +dnn\[hidden=8-4\] +1 +to run", done.stdout)
    assert "2 runs, 1 finished, 1 to run; nothing was trained" in done.stdout
    assert "memory of the largest run: about" in done.stderr
    assert len(list((prepared / "results" / "tiny").glob("*.json"))) == 1


def test_a_dry_run_lists_controls(prepared: Path, train: Call) -> None:
    done = train("--methods", "plain,biasnet", "--controls", "--dry-run")
    assert done.returncode == 0
    assert re.search(r"biasnet, shuffled domains +dnn\[hidden=8-4\] +1 +to run", done.stdout)
    assert re.search(r"plain at the cost of biasnet +dnn\[hidden=\d+-\d+\] +1 +to run", done.stdout)
    assert "4 runs, 0 finished, 4 to run; nothing was trained" in done.stdout


def test_a_dry_run_says_which_pairs_are_not_supported(prepared: Path, train: Call) -> None:
    done = train("--methods", "plain,gbdt", "--backbone", "dcnv2", "--dry-run")
    assert re.search(r"gbdt +dcnv2 +1 +not supported", done.stdout)


def test_a_dry_run_of_a_study_lists_its_runs(prepared: Path, call: Call) -> None:
    done = call("study", "adasparse/table2", "--seeds", "1", "--dry-run")
    assert done.returncode == 0
    assert "4 runs, 0 finished, 4 to run; nothing was trained" in done.stdout
    assert not (prepared / "study").exists()


@pytest.mark.usefixtures("trained_here")
def test_a_study_may_have_controls(prepared: Path, call: Call) -> None:
    study = 'title = "T"\ndraw = "table"\nseeds = 1\ncontrols = true\n[methods]\nPlain = "plain"\nBias = "biasnet"\n'
    (prepared / "mine.toml").write_text(study, encoding="utf-8")
    done = call("study", "mine.toml", "--dry-run")
    assert re.search(r"biasnet, shuffled domains +dnn +1 +to run", done.stdout)
    assert "4 runs, 0 finished, 4 to run; nothing was trained" in done.stdout


def test_records_keep_the_features_of_domains(prepared: Path, train: Call) -> None:
    assert train("--domains", "age,user", "--methods", "plain").returncode == 0
    record = json.loads(next((prepared / "results" / "tiny").glob("*.json")).read_text(encoding="utf-8"))
    assert record["key"]["domain_features"] == ["age", "user"]


def test_a_failing_plugin_is_recorded_and_the_others_go_on(prepared: Path, train: Call) -> None:
    done = train("--methods", "broken.py,plain")
    assert done.returncode == 1
    assert "broken × dnn[hidden=8-4], seed 1: failed: " in done.stdout
    assert "1 of 2 runs failed; the same command repeats only these" in done.stderr
    records = [json.loads(file.read_text()) for file in (prepared / "results" / "tiny").glob("*.json")]
    assert {record["key"]["method"]["name"]: record["status"] for record in records} == {
        "broken": "failed",
        "plain": "finished",
    }
    assert any("no such stage" in (record["error"] or "") for record in records)


BAD = {
    "method": (("--methods", "adaspars"), "adasparse"),
    "group": (("--methods", "star-studdy"), "star-study"),
    "group with settings": (("--methods", "all[norm=bn]"), "must be named here, not a group: all"),
    "backbone": (("--methods", "plain", "--backbone", "dcnv3"), "dcnv2"),
    "setting": (("--methods", "adasparse[r_mim=0.1]"), "r_min"),
    "value": (("--methods", "adasparse[form=fussion]"), "fusion"),
    "file": (("--methods", "missing.py"), "no such file"),
    "refused data": (
        ("--methods", "plain,cross_stitch[max_domains=2]"),
        "3 domains\nhint: choose an indicator with fewer values",
    ),
    "seeds": (("--seeds", "x"), "seeds must be"),
    "no seed": (("--seeds", "0"), "at least one"),
    "domain set": (("--domains", "shopp"), "shop"),
    "domain feature": (("--domains", "price"), "one id per row"),
    "dataset": (("--dataset", "tinny"), "tiny"),
    "optimizer": (("--optimizer", "sgd"), "adam"),
    "preset": (("--preset", "productoin"), "did you mean 'production'"),
    "window": (("--window", "some"), "--window must be a whole number"),
    "endless window": (("--window", "inf"), "--window must be a whole number"),
    "workers and jobs": (("--workers", "2", "--jobs", "2"), "leave out --jobs"),
    "engine": (("--engine", "spark"), "ray"),
    "address": (("--address", "here:1"), "add --engine ray"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(
    prepared: Path, train: Call, arguments: tuple[str, ...], message: str
) -> None:
    done = train(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (prepared / "results").exists()


def test_results_that_cannot_be_written_fail_before_any_run(
    prepared: Path, train: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "results")

    monkeypatch.setattr("ctrbench.runs.store.RunStore.create", refuse)
    done = train("--methods", "plain")
    assert done.returncode == 2
    assert "error: Permission denied: results" in done.stderr
    assert "started" not in done.stderr


def test_a_cluster_that_does_not_answer_is_one_clear_error(prepared: Path, train: Call) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    done = train("--engine", "ray", "--address", "127.0.0.1:9")
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr


@pytest.mark.usefixtures("trained_here")
def test_a_run_shows_its_cost_before_it_starts(
    prepared: Path, train: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.cli.console.err", PlainConsole(width=120, stderr=True))
    arguments = ("--methods", "plain,star[norm=none,aux=none]", "--seeds", "2")
    shown, _, rest = train(*arguments).stderr.partition("tiny: 4 runs")
    # Four fields of four numbers and the price enter: 17 → 8 → 4 → 1.
    assert re.search(r"plain +dnn\[hidden=8-4\] +\d+ +185 +0 +172 +1\.00 *\n", shown)
    assert re.search(r"star\[norm=none,aux=none\] .* 740 +172 +1\.00 +shop \(3\)", shown)
    assert "star[norm=none,aux=none] × dnn[hidden=8-4], seed 2: LogLoss" in rest
    assert "forward" not in train(*arguments).stderr
