"""Every command checks its arguments and its outputs before it writes, downloads or trains anything."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

Call = Callable[..., CompletedProcess[str]]
pytestmark = pytest.mark.usefixtures("trained_here")

STUDY = """
title = "Two methods"
draw = "table"
seeds = 1

[methods]
"Plain" = "plain"
"STAR" = "star[aux=none]"

[train]
epochs = 1
batch_size = 64
embedding_size = 4
"""


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder; folders count too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


COMMANDS = {
    "report": (("report",), "--out"),
    "report leaderboard": (("report",), "--leaderboard"),
    "show": (("show", "tiny"), "--out"),
    "card": (("card", "tiny.csv"), "--out"),
    "synth": (("synth", "iaac", "--rows", "1000"), "--out"),
    "run": (("run",), "--results"),
    "study": (("study", "adasparse/table2", "--seeds", "1"), "--out"),
    "study results": (("study", "adasparse/table2", "--seeds", "1"), "--results"),
    "prepare": (("prepare", "tiny.toml", "--force"), "--export"),
    "new-method": (("new-method", "mine"), "--folder"),
    "bench": (("bench", "--seconds", "0.01"), "--json"),
}
LOCATIONS = {
    "below a file": "tiny.csv/x",
    "broken link": "broken",
    "loop": "loop",
    "long": "n" * 256,
    "proc": "/proc/ctrbench",
}
URLS = ["nope://x", "http://host/x", "s3://bucket/x"]


@pytest.fixture
def ready(prepared: Path) -> Path:
    (prepared / "broken").symlink_to(prepared / "missing")
    (prepared / "loop").symlink_to(prepared / "loop")
    return prepared


@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS)
@pytest.mark.parametrize(("arguments", "option"), COMMANDS.values(), ids=COMMANDS)
def test_an_output_that_cannot_be_written_is_refused_first(
    ready: Path, call: Call, arguments: tuple[str, ...], option: str, location: str
) -> None:
    before = digests(ready)
    done = call(*arguments, option, location)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {option} must be a f" in done.stderr
    assert digests(ready) == before


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    ("arguments", "option"),
    [value for value in COMMANDS.values() if value[1] not in ("--results", "--export")],
)
def test_a_url_is_refused_where_only_paths_are_served(
    ready: Path, call: Call, arguments: tuple[str, ...], option: str, url: str
) -> None:
    before = digests(ready)
    done = call(*arguments, option, url)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {option} must be a path of this machine, not a URL" in done.stderr
    assert digests(ready) == before


@pytest.mark.parametrize("url", URLS[:2])
@pytest.mark.parametrize("command", ["run", "study results", "prepare"])
def test_an_unknown_kind_of_storage_is_refused(ready: Path, call: Call, command: str, url: str) -> None:
    arguments, option = COMMANDS[command]
    before = digests(ready)
    done = call(*arguments, option, url)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: unsupported kind of storage: {url}" in done.stderr
    assert digests(ready) == before


def test_a_file_where_the_records_of_a_dataset_belong_is_refused_first(ready: Path, call: Call) -> None:
    (ready / "results").mkdir()
    (ready / "results" / "tiny").touch()
    done = call("run")
    assert done.returncode == 2
    assert "error: --results must be a folder" in done.stderr
    assert "started" not in done.stderr


def test_a_home_that_cannot_be_written_is_refused_first(
    ready: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ready / "home" / "runs").touch()
    done = call("run")
    assert done.returncode == 2
    assert "error: CTRBENCH_HOME must be a folder" in done.stderr
    monkeypatch.setenv("CTRBENCH_HOME", "/proc/ctrbench")
    done = call("prepare", "tiny.toml")
    assert done.returncode == 2
    assert "error: CTRBENCH_HOME must be a folder" in done.stderr


REFUSED = {
    "no domain feature": (("prepare", "tiny.toml", "--domains", ""), "no domain feature is named"),
    "commas": (("prepare", "tiny.toml", "--domains", ","), "no domain feature is named"),
    "repeated": (("prepare", "tiny.toml", "--domains", "age,age"), "each once"),
    "method": (("run", "--domains", "age,user", "--methods", "nope"), "no such method"),
    "backbone": (("run", "--domains", "age,user", "--backbone", "nope"), "no such backbone"),
    "indicator": (("run", "--domains", "age,user", "--indicator", "price"), "one id per row"),
    "no method": (("run", "--domains", "age,user", "--methods", ","), "no method is named"),
    "no backbone": (("run", "--domains", "age,user", "--backbone", ""), "no backbone is named"),
    "no seed": (("run", "--domains", "age,user", "--seeds", ""), "seeds must be"),
    "seeds": (("run", "--domains", "age,user", "--seeds", "1000000000"), "between 1 and 1,000"),
    "epochs": (("run", "--domains", "age,user", "--epochs", "10001"), "--epochs must be"),
    "lr": (("run", "--domains", "age,user", "--lr", "inf"), "--lr must be"),
    "width": (("run", "--domains", "age,user", "--backbone", "dnn[hidden=0]"), "hidden"),
    "window": (("run", "--domains", "age,user", "--window", "1e300"), "--window must be"),
    "workers": (("run", "--domains", "age,user", "--workers", "2", "--jobs", "1"), "leave out --jobs"),
    "no metric": (("report", "--metrics", ""), "--metrics must name"),
    "no chart": (("report", "--charts", ","), "--charts must name"),
    "checked": (("check", ","), "no method is named"),
    "checked backbone": (("check", "plain", "--backbone", ""), "no backbone is named"),
    "bench": (("bench", "--methods", ""), "no method is named"),
    "generator seed": (("synth", "iaac", "--out", "raw", "--seed", "9" * 20), "--seed"),
    "raw rows": (("synth", "iaac", "--out", "raw", "--rows", "9" * 20), "--rows"),
    "bench rows": (("bench", "--rows", "9" * 20), "--rows"),
    "jobs": (("run", "--jobs", "9" * 20), "--jobs"),
    "no study seed": (("study", "adasparse/table2", "--seeds", ""), "seeds must be"),
    "no dataset": (("run", "--dataset", ""), "no such prepared dataset"),
    "parent dataset": (("report", "--dataset", "../.."), "no records of ../.."),
    "absolute dataset": (("report", "--dataset", "/etc"), "no records of /etc"),
    "pattern": (("report", "--dataset", "*"), "no records of *"),
    "no reported dataset": (("report", "--dataset", ""), "no records of"),
    "long dataset": (("report", "--dataset", "x" * 300), "no records of xxx"),
    "file URL": (("run", "--results", "file://"), "a file URL must hold an absolute path"),
    "disk": (("synth", "iaac", "--rows", "1000000000", "--out", "raw"), "no space left on the disk"),
    "tree workers": (("run", "--methods", "plain,gbdt", "--workers", "2"), "several workers: gbdt × dnn"),
    "shared workers": (
        ("run", "--methods", "separate[norm=bn]", "--workers", "2"),
        "separate[norm=bn] × dnn",
    ),
    "no pair": (("run", "--methods", "gbdt", "--backbone", "pnn", "--domains", "age,user"), "nothing to run"),
    "memory": (("run", "--backbone", "dnn[hidden=65536-65536-65536]"), "must fit into memory"),
    "memory of domains": (
        ("run", "--methods", "star", "--backbone", "dnn[hidden=60000-60000]"),
        "into memory",
    ),
    "study seeds": (("study", "adasparse/table2", "--seeds", "1-1000000000"), "between 1 and 1,000"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_writes_nothing(ready: Path, call: Call, arguments: tuple[str, ...], message: str) -> None:
    before = digests(ready)
    done = call(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert digests(ready) == before


def test_a_read_only_folder_is_refused_only_if_something_must_be_written(
    ready: Path, train: Call, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (train().returncode, call("prepare", "tiny.toml").returncode) == (0, 0)
    before = digests(ready)
    # The superuser may write to folders without permission.
    obstacle = "no file can be created in it: Permission denied"
    monkeypatch.setattr("ctrbench.storage.outputs.folder_obstacle", lambda _folder: obstacle)
    for name in ("ctrbench.runs.store.create_folder", "ctrbench.data.prepare.lock"):
        monkeypatch.setattr(name, refuse_to_write)
    for done in (train(), call("prepare", "tiny.toml"), call("prepare", "tiny.toml", "--domains", "shop")):
        assert (done.returncode, "error" in done.stderr) == (0, False)
    for done in (
        train("--seeds", "2"),
        train("--domains", "age,user"),
        call("explain", "plain", "--domains", "age,user"),
        call("prepare", "tiny.toml", "--force"),
    ):
        assert done.returncode == 2
        assert re.search("error: (--results|CTRBENCH_HOME) must be a folder", done.stderr)
    assert digests(ready) == before


def refuse_to_write(folder: Path, *_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(folder))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("arguments", [(), ("--workers", "2"), ("--domains", "age,user")])
def test_a_device_that_is_missing_is_refused_before_the_table_of_costs(
    ready: Path, call: Call, arguments: tuple[str, ...]
) -> None:
    before = digests(ready)
    done = call("run", "--device", "cuda", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "multiply-adds" not in done.stderr
    assert "--device c" in done.stderr
    assert digests(ready) == before


def test_runs_that_all_fail_end_with_the_reason_and_without_a_table(ready: Path, train: Call) -> None:
    done = train("--methods", "broken.py", "--seeds", "2")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("failed: " in line and "no such stage" in line for line in lines)
    assert "2 of 2 runs failed" in done.stderr
    assert "next:" not in done.stdout


def test_methods_that_are_named_twice_run_once(ready: Path, train: Call) -> None:
    done = train("--methods", "plain,plain", "--seeds", "1")
    assert done.returncode == 0
    assert "runs that are named again are left out: 1" in done.stderr
    assert len(list((ready / "results" / "tiny").glob("*.json"))) == 1


@pytest.mark.parametrize("location", ["absolute", "parent"])
def test_a_study_from_a_path_is_written_to_the_folder_of_the_option(
    ready: Path, call: Call, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = ready / "mine.toml"
    study.write_text(STUDY, encoding="utf-8")
    (ready / "work").mkdir()
    monkeypatch.chdir(ready / "work")
    done = call("study", str(study) if location == "absolute" else "../mine.toml", "--out", "figures")
    assert done.returncode == 0
    assert (ready / "work" / "figures" / "mine" / "table.md").is_file()
    assert not (ready / "mine").exists()


def test_temporary_files_of_killed_runs_are_removed(ready: Path, train: Call) -> None:
    folder = ready / "home" / "runs" / "0123"
    folder.mkdir(parents=True)
    machine = platform.node().replace(".", "-").replace("/", "-")[:60]
    leftover = folder / f".checkpoint.pt.0a1b2c3d.{machine}.{2**22 + 1}.part"
    other = folder / f".checkpoint.pt.0a1b2c3d.{machine}.{os.getpid()}.part"
    leftover.touch()
    other.touch()
    assert train().returncode == 0
    assert [file.name for file in folder.iterdir()] == [other.name]
