"""A worker: holds the cases of one library ready and runs one of them when told to, asleep in between.

The parent and its workers exchange JSON, one line per message, over stdin and stdout. This file and those of the peers'
workers need nothing but numpy, torch and the peer, since they run in an environment without ctrbench.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A case that is ready: `turn` trains for some seconds and returns the rows that it trained on."""

    turn: Callable[[float], int]
    parameters: int = 0
    note: str = ""


class Unavailable(Exception):
    """A case can't be run here, for a reason that needs no name of an exception."""


class Supply:
    """Batches in memory, handed out in a circle for as long as a turn lasts."""

    def __init__(self, batches: Sequence[Any], batch_size: int) -> None:
        self.batches, self.batch_size = batches, batch_size
        self.handed_out = 0

    def turn(self, seconds: float) -> Iterator[Any]:
        """Yield batches until the time is over; at least one."""
        end = time.perf_counter() + seconds
        while True:
            yield self.batches[self.handed_out % len(self.batches)]
            self.handed_out += 1
            if time.perf_counter() >= end:
                return

    def rows_of(self, work: Callable[[], object]) -> int:
        """Return how many rows a piece of work takes from here."""
        before = self.handed_out
        work()
        return (self.handed_out - before) * self.batch_size


def serve(
    open_case: Callable[[dict[str, Any]], Opened], load: Callable[[dict[str, Any]], object] = dict
) -> None:
    """Answer the parent until it closes the line; all other output is discarded."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    cases: dict[str, Opened] = {}
    baseline = 0
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            asked = json.loads(line)
            if asked["do"] == "run":
                answer = timed(cases[asked["name"]], asked["seconds"])
            elif asked["do"] == "peak":
                answer = {"bytes": memory("VmHWM") - baseline}
            else:
                load(asked)
                baseline = baseline or _start_of_memory()
                opened = cases[asked["name"]] = open_case(asked)
                opened.turn(asked["warm_up"])
                answer = {"parameters": opened.parameters, "note": opened.note}
        except Unavailable as error:
            answer = {"error": str(error)}
        except Exception as error:  # noqa: BLE001  # an error of a library ends this case, not the run
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def timed(case: Opened, seconds: float) -> dict[str, float]:
    """Run a case once; return the rows that it trained on and how long that took."""
    start = time.perf_counter()
    rows = case.turn(seconds)
    return {"rows": rows, "seconds": time.perf_counter() - start}


def _start_of_memory() -> int:
    """Count the peak from here on; return what is held already."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return memory("VmRSS")


def memory(name: str) -> int:
    """Return a figure of this process's memory in bytes: VmRSS now, VmHWM at its peak; 0 where none is told."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
