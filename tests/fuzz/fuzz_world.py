"""The folder that every case of the fuzz suite starts from, and a command line in this process that it is given to.

A run is trained in this process instead of a new one, which takes seconds to start. Apart from that the command line is
called as a shell calls it, by `main`, so its handlers of errors take part.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import importlib
import io
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
import polars as pl

from ctrbench.errors import PLUGIN_MODULE

SMALL = ("--epochs", "1", "--batch-size", "16", "--embedding-size", "2", "--backbone", "dnn[hidden=4]")
"""Options of the smallest run."""
ROWS = 60
SECONDS = 90.0
"""Limit of one case; the slowest one takes about 4 s alone."""
SETUP_SECONDS = 600.0
"""Limit of a command of the template, the first of which may compile kernels."""
MEMORY_BYTES = 8 << 30
"""Limit of the memory that a case may add to that of this process."""
CARD = {
    "name": "tiny",
    "title": "A tiny dataset",
    "description": "Clicks in three shops.",
    "homepage": "https://example.org/tiny",
    "path": "tiny.csv",
    "timestamp": "time",
    "representative": "shop",
    "user": "user",
    "label": {"column": "click"},
    "domain_sets": {"default": ["shop", "age"], "shop": ["shop"]},
    "fields": [
        {"name": "user", "role": "user"},
        {"name": "shop", "role": "shop"},
        {"name": "age", "role": "user"},
        {"name": "tags", "kind": "multi_valued"},
        {"name": "price", "kind": "numeric"},
        {"name": "level", "kind": "numeric", "column": "price", "buckets": 3},
    ],
}
STUDY = {
    "title": "A small study",
    "draw": "table",
    "methods": {"Base": "plain", "STAR": "star[norm=none,aux=none]"},
    "backbones": ["dnn[hidden=4]"],
    "seeds": 1,
    "train": {"epochs": 1, "batch_size": 16, "embedding_size": 2},
}
STOPS = """
from pathlib import Path

from ctrbench.extend import Learner, Method


class Stopping(Learner):
    refuses_workers = "it stops"

    def step(self, model, optimizer, batch):
        if optimizer.steps == 2 and Path("stop").exists():
            raise RuntimeError("stopped")
        return super().step(model, optimizer, batch)


class Stops(Method):
    def rewrite(self, plan):
        return plan

    def learner(self):
        return Stopping()
"""
"""Method whose training stops after two steps while there is a file named stop."""
MOVIELENS = {
    "ratings.dat": "".join(
        f"{1 + row % 4}::{10 * (1 + row * 7 % 5)}::{1 + row * 3 % 5}::{978300760 + 60 * row}\n"
        for row in range(ROWS)
    ),
    "users.dat": "1::F::1::10::48067\n2::M::56::16::02460-1234\n3::M::25::7::55117\n4::F::45::1::06810\n",
    "movies.dat": "".join(
        f"{10 * index}::Film {index} (199{index})::Drama|Comedy\n" for index in range(1, 6)
    ),
}
Snapshot = dict[str, str]
"""Relative path → kind, or the sha256 of a file."""


class HangError(BaseException):
    """A case ran past its limit."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that a command left: exit code, output, and the exception that left `main`, if any."""

    arguments: tuple[str, ...]
    code: int | None
    out: str
    err: str
    error: BaseException | None
    warnings: tuple[str, ...]
    is_hang: bool

    @property
    def kind(self) -> str:
        """The name of the outcome in counts."""
        names = {0: "exit 0", 1: "exit 1", 2: "exit 2"}
        return "hang" if self.is_hang else names.get(-1 if self.code is None else self.code, "other")

    def __str__(self) -> str:
        lines = (f"ctrbench {' '.join(map(repr, self.arguments))}", f"exit {self.code}", self.out, self.err)
        return "\n".join((*lines, *(() if self.error is None else traceback.format_exception(self.error))))


@dataclass
class World:
    """A template of a home, results and raw files; `case` makes a copy of it."""

    template: Path
    folder: Path
    num_cases: int = 0
    records: dict[str, str] = field(default_factory=dict)
    """Label → the reproducible content of the record of an undisturbed run."""

    @contextlib.contextmanager
    def case(self) -> Iterator[Path]:
        """Yield a copy as the working directory, with a home of its own, and remove it afterwards."""
        self.num_cases += 1
        folder = self.folder / f"case{self.num_cases}"
        shutil.copytree(self.template, folder, symlinks=True)
        with _surroundings(folder):
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                for module in [name for name in sys.modules if name.startswith(PLUGIN_MODULE)]:
                    del sys.modules[module]


@contextlib.contextmanager
def _surroundings(folder: Path) -> Iterator[None]:
    """Work in a folder, with its own home and without a way to anything else."""
    before, current = dict(os.environ), Path.cwd()
    os.environ.update(
        CTRBENCH_HOME=str(folder / "home"), COLUMNS="200", AWS_EC2_METADATA_DISABLED="true", NO_PROXY="*",
        AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1",
        PIP_INDEX_URL="http://127.0.0.1:9/", PIP_RETRIES="0",
    )  # fmt: skip
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(current)
        os.environ.clear()
        os.environ.update(before)


def make_world(folder: Path) -> World:
    """Write the template: a prepared dataset, records of two methods, an interrupted run and raw files."""
    from ctrbench.runs.store import read_record

    template = folder / "template"
    template.mkdir()
    write_raw_files(template)
    world = World(template, folder)
    with _surroundings(template):
        _must_pass("prepare", "tiny.toml")
        _must_pass("run", *SMALL, "--methods", "plain,star[norm=none,aux=none]")
        _must_pass("run", *SMALL, "--methods", "stops.py", "--results", "undisturbed")
        _must_pass("synth", "iaac", "--rows", "100", "--out", "raw")
        for label in ("results/tiny/plain", "results/tiny/star", "undisturbed/tiny/stops"):
            (file,) = Path().glob(f"{label}-*.json")
            world.records[file.name] = read_record(file.absolute()).reproducible()
        Path("stop").touch()
        for predictions in Path("home/runs").glob("*/predictions.parquet"):
            if not any(
                predictions.parent.name.startswith(file.stem[-12:]) for file in Path("results/tiny").iterdir()
            ):
                shutil.rmtree(predictions.parent)
        shutil.rmtree("undisturbed")
        stopped = call("run", *SMALL, "--methods", "stops.py", "--checkpoint-seconds", "0")
        assert stopped.code == 1, stopped
        assert list(Path("home/runs").glob("*/checkpoint.pt")), stopped
        Path("stop").unlink()
    for file in template.rglob("*"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return world


def _must_pass(*arguments: str) -> None:
    outcome = call(*arguments, seconds=SETUP_SECONDS)
    assert outcome.code == 0, outcome


def write_raw_files(folder: Path) -> None:
    """Write table, card, study, method and archive."""
    from fuzz_values import to_toml

    frame = make_frame()
    frame.write_csv(folder / "tiny.csv")
    frame.write_parquet(folder / "tiny.parquet")
    (folder / "tiny.toml").write_text(to_toml(CARD), encoding="utf-8")
    (folder / "small.toml").write_text(to_toml(STUDY), encoding="utf-8")
    (folder / "stops.py").write_text(STOPS, encoding="utf-8")
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        for name, text in MOVIELENS.items():
            archive.writestr(f"ml-1m/{name}", text.encode("latin-1"))


def make_frame() -> pl.DataFrame:
    """Return the rows of the table."""
    generator = np.random.default_rng(0)
    shop = generator.choice(["s1", "s2", "s3"], ROWS, p=[0.6, 0.3, 0.1])
    return pl.DataFrame(
        {
            "time": np.arange(ROWS),
            "user": generator.integers(0, 8, ROWS),
            "shop": shop,
            "age": generator.choice(["young", "old"], ROWS),
            "tags": [
                "|".join(generator.choice(list("abcd"), size)) for size in generator.integers(0, 4, ROWS)
            ],
            "price": generator.random(ROWS).round(3),
            "click": (generator.random(ROWS) < np.where(shop == "s1", 0.7, 0.3)).astype(int),
        }
    )


def snapshot(folder: Path) -> Snapshot:
    """Return all files and folders below a folder, without lock files, which stay."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(folder))
        if stat.S_ISREG(mode):
            if path.suffix != ".lock":
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif name not in ("home", "home/datasets"):
            found[name] = f"link to {path.readlink()}" if stat.S_ISLNK(mode) else str(stat.S_IFMT(mode))
    return found


def call(*arguments: str, seconds: float = SECONDS) -> Outcome:
    """Call the command line in this process with the streams, warnings and signals of a process of its own."""
    from ctrbench.cli import console
    from ctrbench.cli.app import main

    # A stream that failed leaves its text in the console.
    importlib.reload(console)
    out, err = _stream(), _stream()
    code: int | None = 0
    error: BaseException | None = None
    with (
        _arguments(arguments), _handlers_kept(), _limited_memory(), warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _time_limit(seconds) as has_ended,
    ):  # fmt: skip
        warnings.resetwarnings()
        warnings.simplefilter("always")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)
        try:
            main()
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
        except BaseException as problem:  # noqa: BLE001  # any exception here is a finding
            code, error = None, problem
    return Outcome(
        arguments=arguments, code=code, out=_text(out), err=_text(err), error=error, is_hang=has_ended(),
        warnings=tuple(f"{warning.category.__name__}: {warning.message}" for warning in caught),
    )  # fmt: skip


def call_process(*arguments: str) -> Outcome:
    """Call the command line in a process of its own."""
    command = [sys.executable, "-c", "from ctrbench.cli.app import main; main()", *arguments]
    done = subprocess.run(
        command, capture_output=True, check=False, timeout=10 * SECONDS, stdin=subprocess.DEVNULL
    )
    return Outcome(
        arguments=arguments, code=done.returncode, out=done.stdout.decode("utf-8", "surrogateescape"),
        err=done.stderr.decode("utf-8", "surrogateescape"), error=None, warnings=(), is_hang=False,
    )  # fmt: skip


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    with contextlib.suppress(ValueError):
        stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _arguments(arguments: tuple[str, ...]) -> Iterator[None]:
    before, sys.argv = sys.argv, ["ctrbench", *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
    handlers = {number: signal.getsignal(number) for number in signals}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Limit the memory of this process, so that a size without bounds fails before the machine does."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[5])
    # Not the address space, of which the drawing library reserves far more than it uses.
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + MEMORY_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[Callable[[], bool]]:
    """Raise `HangError` after the limit, and end the process if it does not react; yields whether the limit was hit."""
    started = time.monotonic()

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise HangError

    handler = signal.signal(signal.SIGALRM, stop)
    # A plug-in's loop may catch everything, so the signal is repeated.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    faulthandler.dump_traceback_later(4 * seconds, exit=True, file=sys.__stderr__)
    elapsed = 0.0
    try:
        yield lambda: elapsed >= seconds
    except HangError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        faulthandler.cancel_dump_traceback_later()
        elapsed = time.monotonic() - started
