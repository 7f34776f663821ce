"""The contestants of a contest: worker processes that train on request, and commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from contests import DATA, OURS, PREPARE_ROWS, ROWS, TWIN_ROWS, Case, Contest

from ctrbench.speed.workload import synthetic

HERE = Path(__file__).parent
CTRBENCH = str(Path(sys.executable).with_name("ctrbench"))
WARM_UP_SECONDS = 1.0
RAW_STEP = 37
"""Distance between raw ids, which are not consecutive; 1.5 million rows of CSV are 182 MB."""

Result = dict[str, Any]
Turn = Callable[[], Result]


class Failed(Exception):
    """A case cannot be run; the message is shown in its line."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings of all contests."""

    rounds: int
    seconds: float
    threads: int
    peers_python: Path
    checkouts: Mapping[str, str]
    scratch: Path
    share: float = 1.0
    """Share of the rows that are used."""

    def rows(self, full: int) -> int:
        """Return the number of rows of a contest with `full` rows."""
        return round(full * self.share)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of all contestants: equal threads, caches in the scratch folder, no progress bars."""
        return os.environ | {
            "OMP_NUM_THREADS": str(self.threads),
            "CTRBENCH_HOME": str(self.scratch / "home"),
            "TQDM_DISABLE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }


class Worker:
    """A worker process and the pipes to it."""

    def __init__(self, library: str, setting: Setting) -> None:
        ours, peers = (
            [sys.executable, str(HERE / "ours.py")],
            [str(setting.peers_python), str(HERE / "peers.py")],
        )
        command = ours if library == "ours" else [*peers, library]
        checkout = setting.checkouts.get(library)
        self.log = setting.scratch / f"{library}.log"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, str(setting.threads), *([checkout] if checkout else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=setting.environment,
            )

    def ask(self, do: str, **request: object) -> Result:
        """Send a request and return the answer; raises `Failed` for an error and for a worker that has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: Result = (
            json.loads(line)
            if line
            else {"error": f"the worker ended ({self.process.poll()}): {_last_line(self.log)}"}
        )
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def close(self) -> None:
        """Close the pipe, which ends the process, and wait for its end."""
        with suppress(BrokenPipeError), self.process:
            pass


class Contestants:
    """The cases of one contest; a library's worker starts when its first case is opened."""

    def __init__(self, contest: Contest, setting: Setting, stack: ExitStack) -> None:
        self.contest, self.setting, self.stack = contest, setting, stack
        self.workers: dict[str, Worker] = {}

    def open(self, case: Case) -> tuple[Result, Turn]:
        """Open a case; return its parameters and the function that runs its turn."""
        if case.library == "command":
            return {}, COMMANDS[self.contest.name](case.name, self.setting)
        if case.library not in self.workers:
            self.workers[case.library] = Worker(case.library, self.setting)
            self.stack.callback(self.workers[case.library].close)
        worker, setting = self.workers[case.library], self.setting
        request = {**case.settings, **_data(case, setting)}
        opened = worker.ask("open", name=case.name, warm_up=min(WARM_UP_SECONDS, setting.seconds), **request)
        return opened, lambda: worker.ask("run", name=case.name, seconds=setting.seconds)

    def peak(self, case: Case) -> int:
        """Return the peak memory of the case's worker without the rows."""
        peak: int = self.workers[case.library].ask("peak")["bytes"]
        return peak


def _data(case: Case, setting: Setting) -> dict[str, Any]:
    """Return the description of a case's rows; files are written at the first request."""
    kind = case.settings.get("kind")
    if kind == "metrics":
        return {"rows": setting.rows(case.settings["rows"])}
    if kind == "epoch":
        card = dataset(setting.scratch / "epoch", setting.rows(ROWS), (98, 1, 1))
        run([CTRBENCH, "prepare", str(card)], setting)
        return {"dataset": card.stem, "home": str(setting.scratch / "home")}
    name = case.settings["data"]
    rows = {"rows": setting.rows(ROWS), "shape": DATA[name]}
    return rows if kind == "steps" else rows | {"folder": str(arrays(name, setting))}


def arrays(name: str, setting: Setting) -> Path:
    """Write synthetic rows as arrays for the peers, once."""
    folder = setting.scratch / f"rows-{name}"
    if not folder.exists():
        folder.mkdir()
        workload = synthetic(rows=setting.rows(ROWS), **DATA[name])
        np.save(folder / "ids.npy", workload.data.ids_BF.numpy())
        np.save(folder / "label.npy", workload.data.label_B.numpy())
        np.save(folder / "sizes.npy", np.array([field.size for field in workload.schema.fields]))
    return folder


def dataset(folder: Path, rows: int, parts: tuple[int, int, int]) -> Path:
    """Write synthetic rows as a CSV file with a card, once; return the card."""
    card = folder / "synthetic.toml"
    if not card.exists():
        folder.mkdir()
        workload = synthetic(rows=rows)
        names = [field.name for field in workload.schema.fields]
        frame = pl.DataFrame(workload.data.ids_BF.numpy() * RAW_STEP, schema=names, orient="row")
        label = pl.Series("label", workload.data.label_B.numpy().astype(np.int8))
        frame.insert_column(0, label).write_csv(folder / "synthetic.csv")
        fields = "".join(f'\n[[fields]]\nname = "{name}"\n' for name in names)
        card.write_text(
            'name = "synthetic"\ntitle = "Synthetic rows"\npath = "synthetic.csv"\nrepresentative = "field0"\n'
            f'[label]\ncolumn = "label"\n[split]\nby = "hash"\nparts = {list(parts)}\n'
            f'[domain_sets]\ndefault = ["field0"]\n{fields}',
            encoding="utf-8",
        )
    return card


def run(command: list[str], setting: Setting, rows: int = 1) -> Result:
    """Run a command; return its seconds and the peak memory of its largest process."""
    log, figures = setting.scratch / "command.log", setting.scratch / "command.json"
    launcher = [sys.executable, str(HERE / "launcher.py"), str(figures)]
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            [*launcher, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=setting.environment,
        )
    if done.returncode:
        raise Failed(f"{Path(command[0]).name} ended with {done.returncode}: {_last_line(log)}")
    return {"rows": rows, **json.loads(figures.read_text(encoding="utf-8"))}


def _last_line(log: Path) -> str:
    return "".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])[:200]


def _prepare(case: str, setting: Setting) -> Turn:
    """Return the turn that prepares a CSV file."""
    rows = setting.rows(PREPARE_ROWS)
    card = dataset(setting.scratch / "prepare", rows, (4, 1, 1))
    if case == OURS:
        return lambda: run([CTRBENCH, "prepare", str(card), "--force"], setting, rows)
    command = [str(setting.peers_python), str(HERE / "peers.py"), "prepare", str(card.with_suffix(".csv"))]

    def turn() -> Result:
        with tempfile.TemporaryDirectory(dir=setting.scratch) as folder:
            return run([*command, folder], setting, rows)

    return turn


def _twin(_case: str, setting: Setting) -> Turn:
    """Generate the twin of IAAC and return the turn that prepares it."""
    rows, raw = setting.rows(TWIN_ROWS), str(setting.scratch / "twin")
    run([CTRBENCH, "synth", "iaac", "--rows", str(rows), "--out", raw], setting)
    return lambda: run([CTRBENCH, "prepare", "iaac", "--source", raw, "--force"], setting, rows)


def _cli(case: str, setting: Setting) -> Turn:
    """Return the turn that runs a command."""
    return lambda: run([CTRBENCH, *case.split()[1:]], setting)


COMMANDS: dict[str, Callable[[str, Setting], Turn]] = {"prepare": _prepare, "twin": _twin, "cli": _cli}
