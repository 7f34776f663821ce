"""Commands in forks of one process that has imported everything, which start in milliseconds instead of seconds.

A fork trains runs itself instead of in a further process. Everything else is that of a command: its own process group,
home folder, output and exit code. The process is a script, `python benchmarks/forks.py`, that answers lines of JSON; it
uses none of the libraries whose threads do not survive a fork before it forks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


class Forks:
    """The process that forks, as seen by its parent."""

    def __init__(self) -> None:
        """Start the process; it imports while its parent goes on."""
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **question: object) -> Any:  # noqa: ANN401  # a value of JSON
        """Send a question and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> Fork:
        """Start a command in a folder; its output goes to output.txt there."""
        pid = self.ask(folder=str(folder), arguments=arguments, environment=environment)
        return Fork(self, pid)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@dataclass
class Fork:
    """A command in a fork, with the methods of `subprocess.Popen` that the kills use."""

    forks: Forks
    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code; None while the command runs."""
        if self.code is None:
            self.code = self.forks.ask(poll=self.pid)
        return self.code

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit code; raises `subprocess.TimeoutExpired`."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("ctrbench", timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the command."""
        os.kill(self.pid, number)


def serve(questions: Iterable[str], answers: IO[str]) -> None:
    """Fork for every command, and answer how it ended."""
    _import_all()
    for line in questions:
        question = json.loads(line)
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                _execute(**question)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _import_all() -> None:
    import ctrbench.cli.app
    import ctrbench.data.prepare
    import ctrbench.report.write
    import ctrbench.runs.execute
    import ctrbench.studies.draw
    from ctrbench.runs.engines.local_backend import LocalBackend
    from ctrbench.runs.engines.protocol import Watcher
    from ctrbench.runs.grid import Run
    from ctrbench.runs.record import RunRecord
    from ctrbench.runs.store import RunStore

    def run_parallel(
        self: LocalBackend, runs: Iterable[Run], store: RunStore, watcher: Watcher
    ) -> list[RunRecord]:
        records = []
        for run in runs:
            watcher.started(run)
            records.append(
                ctrbench.runs.execute.execute(run, store, checkpoint_seconds=self.checkpoint_seconds)
            )
            watcher.finished(run, records[-1])
        return records

    LocalBackend.run_parallel = run_parallel  # type: ignore[method-assign]


def _execute(folder: str, arguments: list[str], environment: dict[str, str]) -> None:
    """Execute a command in this fork and end it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv = ["ctrbench", *arguments]
    code = 1
    try:
        from ctrbench.cli.app import main

        main()
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
    except BaseException:  # noqa: BLE001  # as the interpreter does
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
