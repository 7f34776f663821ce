"""Kills commands at random moments and checks that the same command then ends as if nothing had happened.

    python benchmarks/kills.py --kills 100

Commands are killed while they start, train, write checkpoints, predict, write records, prepare, replace a dataset, add
a domain set, draw a study and write a report. After each kill no dataset and no record may be lost; the same command
again must end with equal records, predictions, prepared data and report files, and without temporary files. Moments
are drawn from the seed: shares of the time of an undisturbed command, or a delay after a file appears.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl
from forks import Fork, Forks
from rich.console import Console

from ctrbench.data.home import prepared_names
from ctrbench.data.prepared import open_prepared
from ctrbench.runs.store import RunStore, read_record

ROWS = 4_000
CARD = """
name = "clicks"
title = "Synthetic clicks"
path = "clicks.csv"
timestamp = "time"
representative = "shop"
user = "user"
label = { column = "click" }
domain_sets = { default = ["shop"] }
fields = [{ name = "user" }, { name = "shop" }, { name = "item" }, { name = "price", kind = "numeric" }]
"""
STUDY = """
title = "A small study"
draw = "table"
methods = { Base = "plain", AdaSparse = "adasparse" }
backbones = ["dnn[hidden=8]"]
seeds = 1
train = { epochs = 1, batch_size = 64, embedding_size = 4 }
"""
SMALL = (
    "--epochs",
    "2",
    "--batch-size",
    "64",
    "--embedding-size",
    "4",
    "--backbone",
    "dnn[hidden=8]",
    "--jobs",
    "1",
)
COMMAND = (sys.executable, "-c", "from ctrbench.cli.app import main; main()")
SECONDS = 300.0
"""Limit of one command."""
POLL_SECONDS = 0.001
FORKED = 0.85
"""Share of kills of a fork; the others are of processes that import everything and start further ones."""
AT_WORK = (
    "home/datasets/.*.part",
    "home/datasets/clicks/.*.part",
    "home/datasets/clicks/*/*/.*.part",
    "report/*",
)
"""Files that exist while a command other than `run` and `study` works."""
Process: TypeAlias = "subprocess.Popen[bytes] | Fork"
Result = Mapping[str, str]
"""What a command left behind, by name, as digests."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A command, the folder that it starts in, and the files that show how far it is."""

    name: str
    arguments: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...] = ()
    """Commands before it, which are not killed."""
    triggers: tuple[str, ...] = ()
    """Patterns of files after whose appearance it may be killed."""
    share: int = 1
    """Number of kills relative to the other scenarios."""


PREPARE = ("prepare", "clicks.toml")
TRAIN = ("run", *SMALL, "--methods", "plain,adasparse")
RUN_TRIGGERS = (
    "home/runs/*/.checkpoint.pt.*.part",
    "home/runs/*/checkpoint.pt",
    "home/runs/*/.predictions.parquet.*.part",
    "home/runs/*/predictions.parquet",
    "results/clicks/.*.part",
    "results/clicks/*.json",
)
SCENARIOS = (
    Scenario(name="run", arguments=TRAIN, needs=(PREPARE,), triggers=RUN_TRIGGERS, share=8),
    Scenario(
        name="prepare",
        arguments=PREPARE,
        triggers=("home/datasets/.clicks.*.part", "home/datasets/.clicks.*.part/*", "home/datasets/clicks"),
        share=3,
    ),
    Scenario(
        name="prepare --force",
        arguments=(*PREPARE, "--force"),
        needs=(PREPARE,),
        triggers=("home/datasets/.clicks.*.part/files-*", "home/datasets/clicks/.manifest.json.*.part"),
        share=3,
    ),
    Scenario(
        name="add a domain set",
        arguments=(*PREPARE, "--domains", "shop,user"),
        needs=(PREPARE, (*PREPARE, "--domains", "item")),
        triggers=("home/datasets/clicks/*/*/.*.part",),
        share=2,
    ),
    Scenario(
        name="study",
        arguments=("study", "small.toml"),
        needs=(PREPARE,),
        triggers=(*RUN_TRIGGERS, "study/small/*"),
        share=2,
    ),
    Scenario(
        name="report",
        arguments=("report", "--bins", "3"),
        needs=(PREPARE, TRAIN),
        triggers=("report/.*.part", "report/*"),
        share=2,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """When and how a command is killed."""

    scenario: Scenario
    trigger: str | None
    """Pattern of a file; None for a moment after the start."""
    moment: float
    """Share of the undisturbed time; after a trigger, of 50 ms."""
    signal: signal.Signals
    is_group: bool
    """Whether the processes of runs are killed with it."""
    is_fork: bool
    """Whether the command is a fork, which starts at once and trains in the same process."""

    def __str__(self) -> str:
        where = (
            f"{self.moment:.3f} of the time"
            if self.trigger is None
            else f"{50 * self.moment:.0f} ms after {self.trigger}"
        )
        form = "fork" if self.is_fork else "group" if self.is_group else "process"
        return f"{self.scenario.name}, {self.signal.name} to the {form}, {where}"


@dataclass
class Tally:
    """Counts of kills and the failures among them."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kills by scenario and phase."""
    signals: Counter[str] = field(default_factory=Counter)
    num_forks: int = 0
    num_late: int = 0
    """Commands that had ended before the signal came."""
    num_identical: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Undisturbed:
    """Template folder, seconds and result of a scenario without a kill."""

    template: Path
    seconds: float
    seconds_of_fork: float
    result: Result


def start(folder: Path, arguments: tuple[str, ...], forks: Forks | None = None) -> Process:
    """Start a command in a folder, in a process group of its own; its output goes to output.txt there."""
    variables = {
        "CTRBENCH_HOME": str(folder / "home"),
        "CTRBENCH_CHECKPOINT_SECONDS": "0.02",
        "OMP_NUM_THREADS": "1",
    }
    if forks is not None:
        return forks.start(folder, arguments, variables)
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env={**os.environ, **variables},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def finish(folder: Path, arguments: tuple[str, ...], forks: Forks | None = None) -> float:
    """Run a command to its end; return its seconds. Raises `RuntimeError` with its output if it fails."""
    begin = time.monotonic()
    process = start(folder, arguments, forks)
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        with_group(process.pid, signal.SIGKILL)
        code = process.wait(SECONDS)
    if code != 0:
        raise RuntimeError(f"exit code {code}: {(folder / 'output.txt').read_text(errors='replace')[-2000:]}")
    return time.monotonic() - begin


def write_raw_files(folder: Path) -> None:
    """Write the table, the card and the study."""
    generator = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "time": np.arange(ROWS),
            "user": generator.integers(0, 300, ROWS),
            "shop": generator.choice(["north", "south", "west"], ROWS, p=[0.6, 0.3, 0.1]),
            "item": generator.integers(0, 200, ROWS),
            "price": generator.random(ROWS).round(3),
            "click": generator.integers(0, 2, ROWS),
        }
    )
    frame.write_csv(folder / "clicks.csv")
    (folder / "clicks.toml").write_text(CARD, encoding="utf-8")
    (folder / "small.toml").write_text(STUDY, encoding="utf-8")


def result_of(folder: Path) -> dict[str, str]:
    """Return the digests of everything that a repetition must reproduce."""
    store, result = RunStore(results=folder / "results", home=folder / "home"), {}
    for file in sorted((folder / "results").glob("*/*.json")):
        record = read_record(file)
        result[f"record {file.name}"] = digest(record.reproducible().encode())
        if record.result is not None:
            with store.predictions(record) as path:
                stored = record.result.predictions_sha256 if path else "missing, or not those of the record"
            result[f"predictions {file.name}"] = stored
    for name in prepared_names(folder / "home"):
        prepared = open_prepared(name, folder / "home")
        prepared.verify()
        result[f"dataset {name}"] = prepared.manifest.content_digest
        result |= {f"domain set {key}": info.sha256 for key, info in prepared.manifest.domain_sets.items()}
    for output in ("report", "study"):
        for file in sorted((folder / output).rglob("*")):
            if file.is_file():
                result[str(file.relative_to(folder))] = digest(file.read_bytes())
    return result


def digest(content: bytes) -> str:
    """Return the sha256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def temporary_files(folder: Path) -> list[str]:
    """Return the temporary files and unfinished work below a folder."""
    names = ("*.part", "checkpoint.pt", "*.tmp")
    return sorted(str(path.relative_to(folder)) for name in names for path in folder.rglob(name))


def undisturbed(scenario: Scenario, folder: Path, forks: Forks, *, only_forks: bool = False) -> Undisturbed:
    """Run a scenario in a process, or a fork, and in a fork; what differs, such as a time of day, is not compared."""
    template = folder / "template"
    template.mkdir(parents=True)
    write_raw_files(template)
    for arguments in scenario.needs:
        finish(template, arguments, forks)
    results, seconds = [], []
    for server in (forks if only_forks else None, forks):
        copy = folder / "undisturbed"
        shutil.copytree(template, copy)
        seconds.append(finish(copy, scenario.arguments, server))
        results.append(result_of(copy))
        shutil.rmtree(copy)
    same = {name: value for name, value in results[0].items() if results[1].get(name) == value}
    return Undisturbed(template=template, seconds=seconds[0], seconds_of_fork=seconds[1], result=same)


def draw_kill(generator: random.Random, scenario: Scenario, forked: float = FORKED) -> Kill:
    """Draw the moment, the signal and the processes of a kill."""
    triggers: tuple[str | None, ...] = (*scenario.triggers, *(None,) * max(1, len(scenario.triggers) // 2))
    return Kill(
        scenario=scenario,
        trigger=generator.choice(triggers),
        moment=generator.random(),
        signal=generator.choices((signal.SIGKILL, signal.SIGTERM, signal.SIGINT), (8, 1, 1))[0],
        is_group=generator.random() < 0.7,
        is_fork=generator.random() < forked,
    )


def carry_out(kill: Kill, folder: Path, expected: Undisturbed, forks: Forks) -> tuple[str, int]:
    """Start the command, kill it; return the phase that it was in and its exit code."""
    begin, before = time.monotonic(), set(matches(folder, kill.trigger))
    process = start(folder, kill.scenario.arguments, forks if kill.is_fork else None)
    wait = kill.moment * (expected.seconds_of_fork if kill.is_fork else expected.seconds)
    while process.poll() is None:
        elapsed = time.monotonic() - begin
        if kill.trigger is not None and set(matches(folder, kill.trigger)) - before:
            time.sleep(0.05 * kill.moment**3)
            break
        if elapsed > (wait if kill.trigger is None else SECONDS):
            break
        time.sleep(POLL_SECONDS)
    if kill.is_group:
        with_group(process.pid, kill.signal)
    elif process.poll() is None:
        process.send_signal(kill.signal)
    code = process.wait(SECONDS)
    phase = phase_of(folder, kill.scenario)
    wait_for_group(process.pid)
    return phase, code


def matches(folder: Path, pattern: str | None) -> Iterator[Path]:
    """Yield the files of a pattern; files may vanish meanwhile."""
    try:
        yield from () if pattern is None else folder.glob(pattern)
    except OSError:
        return


def with_group(group: int, number: int) -> None:
    """Send a signal to a process group, if it still exists."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def wait_for_group(group: int) -> None:
    """Wait until the processes of runs have noticed that their parent is gone; raises `RuntimeError` if they do not."""
    end = time.monotonic() + 60
    while any(state != "Z" for state in states_of(group)):
        if time.monotonic() > end:
            with_group(group, signal.SIGKILL)
            raise RuntimeError("processes of runs outlive the command")
        time.sleep(0.02)


def states_of(group: int) -> Iterator[str]:
    """Yield the state of every process of a group; Z for one that has ended and is not yet reaped."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _parent, process_group = (
                file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:3]
            )
            if int(process_group) == group:
                yield state


def phase_of(folder: Path, scenario: Scenario) -> str:
    """Return the phase in which a command was killed, from its files."""
    runs, results = folder / "home" / "runs", folder / "results" / "clicks"
    if scenario.name not in ("run", "study"):
        return "at work" if any(any(matches(folder, pattern)) for pattern in AT_WORK) else "start-up or end"
    if any(results.glob(".*.part")):
        return "record writing"
    if any(runs.glob("*/.checkpoint.pt.*.part")):
        return "checkpoint writing"
    finished = {file.stem[-12:] for file in results.glob("*.json")}
    unfinished = [path for path in runs.glob("*") if path.name[:12] not in finished]
    if any((path / "predictions.parquet").exists() or any(path.glob(".predictions*")) for path in unfinished):
        return "prediction"
    if any((path / "checkpoint.pt").exists() for path in unfinished):
        return "training"
    return "start-up" if not finished else "between runs, drawing or end"


def lost(before: Result, after: Result) -> list[str]:
    """Return the datasets, domain sets, records and predictions that are gone or changed."""
    kept = ("dataset", "domain set", "record", "predictions")
    return [name for name in before if name.startswith(kept) and after.get(name) != before[name]]


def attempt(kill: Kill, expected: Undisturbed, folder: Path, forks: Forks, tally: Tally) -> list[str]:
    """Kill a command, repeat it and compare; return how it failed."""
    shutil.copytree(expected.template, folder)
    try:
        before = result_of(folder)
        phase, code = carry_out(kill, folder, expected, forks)
        tally.kills[kill.scenario.name, phase] += 1
        tally.num_forks += kill.is_fork
        tally.num_late += code == 0
        tally.signals[f"{kill.signal.name} → {code}"] += 1
        faults = [f"{name} is lost" for name in lost(before, result_of(folder))]
        finish(folder, kill.scenario.arguments, forks if kill.is_fork else None)
        after = result_of(folder)
        faults += [f"{name} differs" for name, value in expected.result.items() if after.get(name) != value]
        faults += [f"{name} is left" for name in temporary_files(folder)]
    except Exception as error:  # noqa: BLE001  # any error here is a finding
        faults = [f"{type(error).__name__}: {error}"]
    if faults:
        tally.failures.append(f"{kill}: {'; '.join(faults[:4])}")
    else:
        tally.num_identical += 1
    shutil.rmtree(folder, ignore_errors=True)
    return faults


def run_kills(
    num_kills: int,
    *,
    seed: int = 0,
    only: str | None = None,
    forked: float = FORKED,
    folder: Path,
    forks: Forks,
    say: Callable[[str], None] = lambda _line: None,
) -> Tally:
    """Carry out kills, the scenarios in turn by their shares; `forked` is the share of forks among them."""
    chosen = [scenario for scenario in SCENARIOS if only in (None, scenario.name)]
    turns = [scenario for scenario in chosen for _ in range(scenario.share)]
    generator, tally = random.Random(seed), Tally()
    generator.shuffle(turns)
    known: dict[str, Undisturbed] = {}
    for index in range(num_kills):
        scenario = turns[index % len(turns)]
        if scenario.name not in known:
            template = folder / scenario.name.replace(" ", "-")
            known[scenario.name] = undisturbed(scenario, template, forks, only_forks=forked == 1.0)
        kill = draw_kill(generator, scenario, forked)
        faults = attempt(kill, known[scenario.name], folder / f"kill{index}", forks, tally)
        say(f"[{index + 1}/{num_kills}] {kill}: {'; '.join(faults) or 'bit-identical'}")
    return tally


def describe(tally: Tally) -> str:
    """Return the counts and failures as lines of text."""
    total = tally.kills.total()
    lines = [
        f"{total} kills, {tally.num_forks} of them of forks, {tally.num_late} after the end",
        f"{tally.num_identical} repeated commands bit-identical, {len(tally.failures)} failures",
    ]
    lines += [f"  {number:3d} × {name}: {phase}" for (name, phase), number in sorted(tally.kills.items())]
    lines += [f"  {number:3d} × {name}" for name, number in sorted(tally.signals.items())]
    return "\n".join([*lines, *(f"FAILED {failure}" for failure in tally.failures)])


def main() -> None:
    """Carry out the kills and print the counts; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[scenario.name for scenario in SCENARIOS])
    options = parser.parse_args()
    say = partial(Console().print, highlight=False, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="ctrbench-kills-") as folder:
        forks = Forks()
        tally = run_kills(
            options.kills, seed=options.seed, only=options.only, folder=Path(folder), forks=forks, say=say
        )
        forks.close()
    say(describe(tally))
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()
