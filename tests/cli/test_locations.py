"""Paths, folders and URLs as typed: an empty, an impossible or an undecodable one is refused first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Call = Callable[..., CompletedProcess[str]]

OUTPUTS = {
    "report": (("report",), "--out"),
    "leaderboard": (("report",), "--leaderboard"),
    "show": (("show", "tiny"), "--out"),
    "card": (("card", "tiny.csv"), "--out"),
    "synth": (("synth", "iaac", "--rows", "1000"), "--out"),
    "study": (("study", "adasparse/table2"), "--out"),
    "new-method": (("new-method", "mine"), "--folder"),
    "bench": (("bench",), "--json"),
}
INPUTS = {"source": (("prepare", "tiny.toml"), "--source")}
URLS = {
    "results": (("run",), "--results"),
    "reported": (("report",), "--results"),
    "study results": (("study", "adasparse/table2"), "--results"),
    "export": (("prepare", "tiny.toml"), "--export"),
}
OPTIONS = {**OUTPUTS, **INPUTS, **URLS}
NOT_UTF8 = "caf\udce9"
"""The byte E9, as Python reads it from a command line."""
LONG = "n" * 300
ARGUMENTS = {
    "card": ("prepare", f"{NOT_UTF8}.toml"),
    "table": ("card", f"{NOT_UTF8}.csv"),
    "study": ("study", f"{NOT_UTF8}.toml"),
    "method": ("explain", f"{NOT_UTF8}.py"),
    "checked": ("check", f"{NOT_UTF8}.py"),
    "methods": ("run", "--methods", f"{NOT_UTF8}.py"),
    "metrics": ("report", "--metrics", f"{NOT_UTF8}.py"),
    "charts": ("report", "--charts", f"{NOT_UTF8}.py"),
    "dataset": ("show", NOT_UTF8),
    "new method": ("new-method", NOT_UTF8),
    **{name: (*arguments, option, NOT_UTF8) for name, (arguments, option) in OPTIONS.items()},
}
LONG_NAMES = {
    "records": ("report", "--dataset", "tiny", "--results", LONG),
    "metric": ("report", "--dataset", "tiny", "--metrics", f"{LONG}.py"),
    "chart": ("report", "--dataset", "tiny", "--charts", f"{LONG}.py"),
    "method": ("check", f"{LONG}.py"),
    "explained": ("explain", f"{LONG}.py"),
    "card": ("prepare", f"{LONG}.toml"),
    "study": ("study", f"{LONG}.toml"),
    "table": ("card", LONG),
}


def assert_refused(done: CompletedProcess[str], message: str, folder: Path) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("arguments", "option"), OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_value_is_not_the_current_folder(
    call: Call, folder: Path, arguments: tuple[str, ...], option: str, value: str
) -> None:
    assert_refused(call(*arguments, option, value), f"error: {option} must not be empty: '{value}'", folder)


def test_an_empty_table_is_refused(call: Call, folder: Path) -> None:
    assert_refused(call("card", ""), "error: FILE must not be empty: ''", folder)


@pytest.mark.parametrize(("arguments", "option"), {**OUTPUTS, **INPUTS}.values(), ids={**OUTPUTS, **INPUTS})
@pytest.mark.parametrize("url", ["s3://bucket/x", "http://host/x", "nope:/x", "file:///tmp/x"])
def test_a_url_is_shown_as_typed(
    call: Call, folder: Path, arguments: tuple[str, ...], option: str, url: str
) -> None:
    message = f"error: {option} must be a path of this machine, not a URL: {url}\n"
    assert_refused(call(*arguments, option, url), message, folder)


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_bytes_that_are_not_utf8_are_refused(call: Call, folder: Path, arguments: tuple[str, ...]) -> None:
    assert_refused(call(*arguments), "error: an argument must be UTF-8 text: caf\\udce9", folder)


def test_a_home_that_is_not_utf8_is_refused_first(
    call: Call, unprepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTRBENCH_HOME", f"home/{NOT_UTF8}")
    before = sorted(unprepared.iterdir())
    for arguments in (("prepare", "tiny.toml"), ("run",), ("show", "tiny")):
        done = call(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: CTRBENCH_HOME must be UTF-8 text: home/caf\\udce9\n")
    assert sorted(unprepared.iterdir()) == before


@pytest.mark.parametrize("arguments", LONG_NAMES.values(), ids=LONG_NAMES)
def test_a_name_that_no_file_system_has_is_one_error(
    call: Call, folder: Path, arguments: tuple[str, ...]
) -> None:
    done = call(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "nnn" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert list(folder.iterdir()) == []


def test_a_missing_table_is_named(call: Call, folder: Path) -> None:
    done = call("card", "nope.csv")
    assert done.returncode == 2
    assert done.stderr.startswith("error: FILE must exist: nope.csv (No such file or directory)\n")
