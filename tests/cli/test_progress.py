"""Progress on a terminal, as bars, and elsewhere, as lines."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
import typer

from ctrbench.cli import progress
from ctrbench.cli.console import PlainConsole


@dataclass(frozen=True)
class Key:
    digest: str


@dataclass(frozen=True)
class Run:
    key: Key
    label: str = "plain × dnn, seed 1"


@dataclass(frozen=True)
class Tick:
    epoch: int = 1
    epochs: int = 2
    step: int = 5
    steps: int = 10
    loss: float = 0.5
    rows_per_second: float = 1e4
    dev_auc: float | None = 0.75


@dataclass(frozen=True)
class Record:
    status: str = "failed"
    error: str = "KeyError: 'x'"
    result: None = None


@pytest.fixture(params=[True, False], ids=["terminal", "lines"])
def output(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to standard error."""
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=request.param, width=160)
    monkeypatch.setattr("ctrbench.cli.console.err", console)
    return file


def test_each_phase_is_shown(output: io.StringIO) -> None:
    with progress.phases() as phases:
        for phase in ("read", "encode"):
            for done in (0.0, 0.5, 1.0):
                phases(phase, done)
    assert all(phase in output.getvalue() for phase in ("read", "encode"))


def test_lines_name_a_phase_once(output: io.StringIO) -> None:
    with progress.phases() as phases:
        phases("read", 0.0)
        phases("read", 1.0)
    is_terminal = "\x1b" in output.getvalue()
    assert is_terminal or output.getvalue() == "read\n"


def test_runs_are_counted_and_their_end_is_shown(
    output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    runs = [Run(Key("a")), Run(Key("b"), "star × dnn, seed 1")]
    with progress.training("tiny", len(runs) + 1, len(runs)) as watcher:
        for run in runs:
            watcher.started(run)
            watcher.ticked(run, Tick())
            if watcher.bars:
                watcher.bars.refresh()
            watcher.finished(run, Record())
    shown = output.getvalue()
    assert "tiny: 3 runs, 1 already finished, 2 to run" in shown
    assert "[2/2] star × dnn, seed 1" in shown
    assert "epoch 1/2 · loss 0.5000 · 10,000 rows/s · dev AUC 0.7500" in shown
    assert "plain × dnn, seed 1: failed: KeyError: 'x'" in shown


def test_each_measured_case_is_shown(output: io.StringIO) -> None:
    with progress.measuring() as started:
        started("plain × dnn", 1, 2)
        started("star × dnn", 2, 2)
    assert "star × dnn" in output.getvalue()


def test_an_interrupt_becomes_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped, progress.resumable():
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    assert "Run the same command again to resume" in capsys.readouterr().err
