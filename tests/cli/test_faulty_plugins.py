"""Exceptions inside a user's plug-in: one error with file and line, and exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Call = Callable[..., CompletedProcess[str]]
pytestmark = pytest.mark.usefixtures("trained_here")

METRIC = """
from ctrbench.eval.metrics.base import RowMetric


class Mine(RowMetric):
    name = "mine"
    title = "Mine"

    def values(self, groups):
        return {body}
"""
READER = """
from ctrbench.readers.base import Reader


class Mine(Reader):
    def read(self, request):
        return {body}
"""
DRAWING = """
from ctrbench.studies.drawing import Drawing


class Mine(Drawing):
    def draw(self, parts, *, store):
        return {body}
"""
CHART = """
from ctrbench.report.chart import Chart


class Mine(Chart):
    def draw(self, summary):
        return {body}
"""
METHOD = """
from ctrbench.extend import Method


class Mine(Method):
    def rewrite(self, plan):
        return plan

    def learner(self):
        return {}["no such learner"]
"""
STUDY = 'title = "Mine"\ndraw = "mine.py"\nmethods = { plain = "plain" }\nseeds = 1\ntrain = { epochs = 1 }\n'
COMMANDS = {
    "metric": ("report", "--metrics", "mine.py"),
    "chart": ("report", "--charts", "mine.py"),
    "reader": ("prepare", "tiny.toml", "--force"),
    "drawing": ("study", "mine.toml"),
}
SOURCES = {"metric": METRIC, "chart": CHART, "reader": READER, "drawing": DRAWING}


@pytest.fixture
def use(prepared: Path, train: Call, call: Call) -> Callable[[str, str], CompletedProcess[str]]:
    """Call the command that uses a plug-in of a kind whose method returns an expression."""

    def run(kind: str, body: str) -> CompletedProcess[str]:
        Path("mine.py").write_text(SOURCES[kind].format(body=body), encoding="utf-8")
        if kind in ("metric", "chart"):
            assert train("--methods", "plain").returncode == 0
        if kind == "reader":
            card = Path("tiny.toml")
            card.write_text(f'reader = "mine.py"\n{card.read_text(encoding="utf-8")}', encoding="utf-8")
        if kind == "drawing":
            Path("mine.toml").write_text(STUDY, encoding="utf-8")
        return call(*COMMANDS[kind])

    return run


@pytest.mark.parametrize(
    ("kind", "function"), [("metric", "values"), ("chart", "draw"), ("reader", "read"), ("drawing", "draw")]
)
def test_an_exception_names_file_and_line(
    use: Callable[[str, str], CompletedProcess[str]], kind: str, function: str
) -> None:
    done = use(kind, "1 / 0")
    line = SOURCES[kind].split("\n").index("        return {body}") + 1
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    problem, hint = done.stderr.splitlines()[-2:]
    expected = f"error: a plug-in must not raise an exception: mine.py, line {line}, in {function}: ZeroDivisionError"
    assert problem.startswith(expected)
    assert problem.endswith(f"({Path('mine.py').resolve()})")
    assert hint == "hint: correct this line; --debug shows the traceback"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("metric", "one number per group: metric mine returned int for "),
        ("chart", "draw() of a chart must yield figures: "),
        ("reader", "RawData with a polars LazyFrame: "),
        ("drawing", "draw() of a drawing must return Drawn: "),
    ],
)
def test_a_wrong_return_value_is_one_clear_error(
    use: Callable[[str, str], CompletedProcess[str]], kind: str, message: str
) -> None:
    done = use(kind, "3")
    assert done.returncode == 2
    assert message in done.stderr
    assert "returned int" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_traceback_is_shown_on_request(
    use: Callable[[str, str], CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTRBENCH_DEBUG", "1")
    done = use("reader", "1 / 0")
    assert done.returncode == 2
    assert "Traceback (most recent call last):" in done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: a plug-in must not raise an exception")


def test_a_failed_run_names_file_and_line(prepared: Path, train: Call) -> None:
    Path("mine.py").write_text(METHOD, encoding="utf-8")
    done = train("--methods", "mine.py")
    error = "mine.py, line 10, in learner: KeyError: 'no such learner'"
    assert done.returncode == 1
    assert f"failed: {error}" in done.stderr
    assert f"failed: {error}" in done.stdout
    (record,) = Path("results/tiny").glob("*.json")
    assert json.loads(record.read_text(encoding="utf-8"))["error"] == error


def test_the_end_of_an_iterator_is_an_exception_of_the_plugin(
    use: Callable[[str, str], CompletedProcess[str]],
) -> None:
    done = use("chart", "next(iter(()))")
    assert done.returncode == 2
    assert "mine.py, line 7, in draw: StopIteration" in done.stderr


@pytest.mark.parametrize("body", ["return 3", "pass"])
def test_a_method_that_cannot_be_made_is_one_clear_error(prepared: Path, call: Call, body: str) -> None:
    text = f"from ctrbench.extend import Method\nclass Mine(Method):\n    def __init__(self): {body}\n"
    Path("mine.py").write_text(f"{text}    def rewrite(self, plan): return plan\n", encoding="utf-8")
    done = call("explain", "mine.py")
    assert done.returncode == 2
    assert "must be made from its settings" in done.stderr
