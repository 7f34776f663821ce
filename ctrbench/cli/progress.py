"""Progress of long commands: bars on a terminal, plain lines elsewhere, all on standard error.

Nothing here prints results. `resumable` turns Ctrl-C into one line and exit code 130.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ctrbench.cli import console
from ctrbench.cli.show_runs import describe_outcome
from ctrbench.failures import Interrupted, is_failure, stop_code, stop_message
from ctrbench.plain_text import one_line

if TYPE_CHECKING:
    from ctrbench.runs.grid import Run
    from ctrbench.runs.record import RunRecord
    from ctrbench.speed.bench import Progress as BenchProgress
    from ctrbench.train.loop import Tick

SECONDS_BETWEEN_LINES = 10.0
"""Least time between two plain lines about the same run."""


@contextmanager
def resumable() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into one line and exit code 130 or 143."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        if is_failure(error):
            raise
        console.print_note(f"{stop_message(error)} Run the same command again to resume.")
        raise typer.Exit(stop_code(error)) from None


class PhaseProgress(Protocol):
    """Callback that receives the current phase and the completed share of it."""

    def __call__(self, phase: str, done: float) -> None:
        """Update one phase; `done` is in [0, 1]."""


@contextmanager
def phases() -> Iterator[PhaseProgress]:
    """Show the phases of a preparation: one bar per phase, or one line where there is no terminal."""
    if not console.err.is_terminal:
        yield _PhaseLines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console.err) as bars:
        yield _PhaseBars(bars)


class _PhaseLines:
    def __init__(self) -> None:
        self.started: set[str] = set()

    def __call__(self, phase: str, done: float) -> None:
        if phase not in self.started:
            self.started.add(phase)
            console.print_note(phase)


class _PhaseBars:
    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, phase: str, done: float) -> None:
        if phase not in self.tasks:
            self.tasks[phase] = self.bars.add_task(one_line(phase), total=1.0)
        self.bars.update(self.tasks[phase], completed=done)


@contextmanager
def training(dataset: str, num_runs: int, num_missing: int, noun: str = "run") -> Iterator[RunProgress]:
    """Show how many runs are left, and the progress of those under way."""
    runs = f"{num_runs} {noun}{'' if num_runs == 1 else 's'}"
    console.print_note(f"{dataset}: {runs}, {num_runs - num_missing} already finished, {num_missing} to run")
    if not console.err.is_terminal:
        yield RunProgress(num_missing, None)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console.err) as bars:
        yield RunProgress(num_missing, bars)


class RunProgress:
    """Watcher that shows one bar for all runs and one per run under way, or plain lines without `bars`."""

    def __init__(self, num_runs: int, bars: Progress | None) -> None:
        self.num_runs, self.num_started, self.num_finished, self.bars = num_runs, 0, 0, bars
        self.start_time = time.monotonic()
        self.tasks: dict[str, TaskID] = {}
        self.line_times: dict[str, float] = {}
        """Time of the last plain line about each run."""
        self.all_runs = bars.add_task("all runs", total=num_runs, figures="") if bars else TaskID(0)

    def started(self, run: Run) -> None:
        """Announce a run that begins."""
        self.num_started += 1
        title = one_line(f"[{self.num_started}/{self.num_runs}] {run.label}")
        self.line_times[run.key.digest] = time.monotonic()
        if self.bars is None:
            console.print_note(f"{title}: started")
        else:
            self.tasks[run.key.digest] = self.bars.add_task(title, total=None, figures="")

    def ticked(self, run: Run, tick: Tick) -> None:
        """Show the progress of a run."""
        auc = "" if tick.dev_auc is None else f" · dev AUC {tick.dev_auc:.4f}"
        figures = f"epoch {tick.epoch}/{tick.epochs} · loss {tick.loss:.4f} · {tick.rows_per_second:,.0f} rows/s{auc}"
        if self.bars is not None:
            task = self.tasks[run.key.digest]
            self.bars.update(task, completed=tick.step, total=tick.steps, figures=figures)
        elif time.monotonic() - self.line_times[run.key.digest] > SECONDS_BETWEEN_LINES:
            self.line_times[run.key.digest] = time.monotonic()
            console.print_note(f"{one_line(run.label)}: step {tick.step}/{tick.steps} · {figures}")

    def finished(self, run: Run, record: RunRecord) -> None:
        """Print the result of a run, or the error that ended it."""
        if self.bars is not None:
            self.bars.remove_task(self.tasks.pop(run.key.digest))
            self.bars.advance(self.all_runs)
        self.num_finished += 1
        console.print_note(f"{one_line(run.label)}: {describe_outcome(record)}{self._time_left()}")

    def _time_left(self) -> str:
        """Return the time that the other runs will take, by the mean of those finished; empty after the last one."""
        num_left = self.num_runs - self.num_finished
        seconds = (time.monotonic() - self.start_time) / self.num_finished * num_left
        return f" · {num_left} left, about {max(1, round(seconds / 60))} min" if num_left > 0 else ""


@contextmanager
def measuring() -> Iterator[BenchProgress]:
    """Show which case is measured: a bar, or one line per case where there is no terminal."""
    if not console.err.is_terminal:
        yield lambda name, number, total: console.print_note(one_line(f"[{number}/{total}] {name}"))
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console.err, transient=True) as bars:
        task = bars.add_task("measuring hardware limits", total=None)
        yield lambda name, number, total: bars.update(
            task, description=one_line(name), completed=number - 1, total=total
        )
