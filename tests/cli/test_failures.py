"""Commands that cannot do their work: one error, an exit code and no traceback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import ctrbench as package
from ctrbench.cli import console

Call = Callable[..., CompletedProcess[str]]

COMMAND = "import sys; from ctrbench.cli.app import main; sys.argv[0] = 'ctrbench'; main()"
PLUGIN = """
import sys
from ctrbench.extend import Method


class Mine(Method):
    def __init__(self, **settings):
        super().__init__(**settings)
        {init}

    def rewrite(self, plan):
        {rewrite}
        return plan

    def learner(self):
        {learner}
        return super().learner()


{end}
"""
WITHOUT_RIGHTS = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip
"""Beginning of a command as a user who can read all files, also the interpreter's, and write none."""
as_other_user = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user"
)


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1]), **variables}


def execute(
    *arguments: str, prefix: tuple[str, ...] = (), stdout: int = subprocess.PIPE, **variables: str
) -> CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [*prefix, sys.executable, "-c", COMMAND, *arguments],
        stdout=stdout, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", env=environment(**variables),
    )  # fmt: skip


def write_plugin(**lines: str) -> None:
    text = PLUGIN.format(**{"init": "pass", "rewrite": "pass", "learner": "pass", "end": "", **lines})
    Path("mine.py").write_text(text, encoding="utf-8")


def test_a_full_output_is_one_error(folder: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = execute("list", "methods", stdout=full)
    os.close(full)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: No space left on device: standard output"
    assert len(done.stderr.splitlines()) == 2


def test_a_closed_pipe_ends_without_a_word(folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = execute("list", "methods", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_characters_outside_the_encoding_are_replaced(folder: Path, variables: dict[str, str]) -> None:
    done = execute("list", "backbones", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "finalmlp" in done.stdout


@pytest.mark.parametrize(
    ("home", "rule"), [("~nosuchuser/x", "no such user"), ("/tmp/" + "a" * 300, "File name too long")]
)
def test_an_impossible_home_is_one_error(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, home: str, rule: str
) -> None:
    monkeypatch.setenv("CTRBENCH_HOME", home)
    done = call("show", "x")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {rule}")


def test_a_deleted_working_directory_is_one_error(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTRBENCH_HOME", "relative")
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = call("explain", "star")
    monkeypatch.chdir(folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No such file or directory: the working directory")


@as_other_user
@pytest.mark.parametrize(
    "arguments", [("new-method", "mine"), ("synth", "iaac", "--rows", "1000", "--out", "raw")]
)
def test_a_folder_without_permission_is_one_error(folder: Path, arguments: tuple[str, ...]) -> None:
    folder.chmod(0o755)
    done = execute(*arguments, prefix=WITHOUT_RIGHTS, HOME="/nonexistent", CTRBENCH_HOME="/nonexistent/home")
    assert done.returncode == 2
    assert "ermission" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_a_signal_ends_with_one_line(folder: Path, number: int, code: int, word: str) -> None:
    write_plugin(end="print('ready', file=sys.stderr, flush=True)\nimport time\ntime.sleep(60)")
    command = [sys.executable, "-c", COMMAND, "explain", "mine.py"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(number)
        assert process.stderr.read() == f"{word}.\n"
    assert process.returncode == code


@pytest.mark.parametrize("statement", ["sys.exit(0)", "raise KeyboardInterrupt", "raise BaseException('x')"])
@pytest.mark.parametrize("place", ["init", "rewrite", "end"])
def test_a_plugin_cannot_end_a_command(call: Call, folder: Path, place: str, statement: str) -> None:
    write_plugin(**{place: statement})
    done = call("explain", "mine.py")
    assert done.returncode == 2
    text = Path("mine.py").read_text(encoding="utf-8")
    line = text.split("\n").index(statement if place == "end" else f"        {statement}") + 1
    assert re.match(rf"error: a plug-in .*mine\.py, line {line}, in ", done.stderr)


@pytest.mark.usefixtures("trained_here")
@pytest.mark.parametrize("statement", ["sys.exit(0)", "raise KeyboardInterrupt"])
def test_a_plugin_that_ends_the_process_fails_its_run_and_its_check(
    call: Call, train: Call, prepared: Path, statement: str
) -> None:
    write_plugin(learner=statement)
    trained, checked = train("--methods", "mine.py"), call("check", "mine.py", "--backbone", "dnn")
    assert (trained.returncode, checked.returncode) == (1, 1)
    assert re.search(r"failed: mine\.py, line \d+, in learner: \w+", trained.stdout)
    assert re.search(r"mine\.py, line \d+, in\s+learner\s+raised", checked.stdout)


def test_a_plan_that_is_none_names_the_file(call: Call, folder: Path) -> None:
    write_plugin(rewrite="return None")
    done = call("explain", "mine.py")
    assert done.returncode == 2
    assert f"Mine.rewrite() in {Path('mine.py').resolve()} returned NoneType" in done.stderr


def test_a_plan_from_which_no_model_can_be_built_names_the_file(call: Call, folder: Path) -> None:
    write_plugin(rewrite="from dataclasses import replace; return replace(plan, tower=3)")
    done = call("explain", "mine.py")
    assert done.returncode == 2
    assert f"{Path('mine.py').resolve()}: TypeError" in done.stderr


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Let `ctrbench card` fail with a bug; return the folder of temporary files."""

    def fail(*_: object, **__: object) -> None:
        raise IndexError("a\x1b[31m\nb")

    monkeypatch.setattr("ctrbench.data.draft.draft_card", fail)
    temporary = folder / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    Path("x.csv").touch()
    return temporary


def test_a_bug_is_two_lines_that_name_the_file_of_its_traceback(call: Call, bug: Path) -> None:
    done = call("card", "x.csv")
    assert done.returncode == 1
    problem, hint = done.stderr.splitlines()
    assert problem.startswith("error: unexpected error: IndexError: a")
    assert "\x1b" not in problem
    (file,) = bug.iterdir()
    assert hint.startswith("hint: this is a bug of ctrbench")
    assert hint.endswith(f"; the traceback is in {file}")
    assert "in fail" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [("--debug", "card", "x.csv"), ("card", "x.csv", "--debug")])
def test_debug_shows_the_traceback(
    call: Call, bug: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CTRBENCH_DEBUG", "")
    done = call(*arguments)
    assert done.returncode == 1
    assert "Traceback (most recent call last):" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_wrong_option_is_one_error(call: Call, folder: Path) -> None:
    done = call("run", "--nope\x1b")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: No such option: --nope\\x1b",
        "hint: ctrbench run --help lists arguments and options",
    ]


def test_a_path_with_control_characters_is_shown_escaped(call: Call, folder: Path) -> None:
    done = call("check", "a\x1b(31m\nb.py")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no such file: a\\x1b(31m\\nb.py\n")


def test_values_of_data_are_shown_as_they_are(
    call: Call, unprepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "out", console.PlainConsole(width=200))
    table = Path("tiny.csv")
    text = table.read_text(encoding="utf-8")
    table.write_text(
        text.replace(",s1,", ",[/bold]:smile:\x1b[31m,").replace(",s2,", ",[bold]r[/bold],"), encoding="utf-8"
    )
    assert call("prepare", "tiny.toml").returncode == 0
    done = call("show", "tiny")
    assert done.returncode == 0
    assert "[/bold]:smile:\\x1b[31m" in done.stdout
    assert "[bold]r[/bold]" in done.stdout
    assert "\x1b" not in done.stdout
