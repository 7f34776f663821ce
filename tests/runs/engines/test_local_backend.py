"""Killed runs resume from their checkpoint and end with a bit-identical record."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctrbench.data.prepared import open_prepared
from ctrbench.errors import DataError, SettingError
from ctrbench.runs.engines.engine import make_engine
from ctrbench.runs.engines.local_backend import (
    LocalBackend,
    ignored_interrupts,
    record_death,
    send_message,
    serve_runs,
)
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore, read_record

COMMAND = (
    "run", "--methods", "./stopping.py", "--epochs", "3", "--patience", "9", "--batch-size", "400",
    "--backbone", "dnn[hidden=8-4]", "--checkpoint-seconds", "0",
)  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "CTRBENCH_HOME": str(folder / "home")}


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", "from ctrbench.cli.app import main; main()", *arguments]


def only_record(results: Path) -> RunRecord:
    (file,) = results.glob("tiny/*.json")
    return read_record(file)


@pytest.fixture
def run_to_the_end(
    home: Path, ctrbench: Callable[..., int], trained_here: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], RunRecord]:
    """Run the command to its end in this process, and return the record of a folder of results."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("CTRBENCH_HOME", str(home / "home"))

    def run(results: str) -> RunRecord:
        assert ctrbench(*COMMAND, "--results", results) == 0
        return only_record(home / results)

    return run


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "home" / "runs").glob("*/checkpoint.pt"))


def test_kill_and_resume_gives_a_bit_identical_record(
    home: Path, stop: Path, wait_for: Callable[..., None], run_to_the_end: Callable[[str], RunRecord]
) -> None:
    started = command(home, *COMMAND, "--results", "killed")
    process = subprocess.Popen(
        started, cwd=home, env=environment(home), start_new_session=True, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: checkpoints(home))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stop.unlink()
    assert not list(home.glob("killed/tiny/*.json"))
    resumed = run_to_the_end("killed")
    assert resumed.measured.resumed == 1
    assert not checkpoints(home)
    whole = run_to_the_end("whole")
    assert whole.measured.resumed == 0
    assert resumed.reproducible() == whole.reproducible()


def test_a_dead_worker_is_a_failed_run_that_goes_on_later(
    home: Path, stop: Path, wait_for: Callable[..., None], run_to_the_end: Callable[[str], RunRecord]
) -> None:
    started = command(home, *COMMAND, "--results", "dead", "--jobs", "1")
    process = subprocess.Popen(started, cwd=home, env=environment(home), stderr=subprocess.DEVNULL)
    wait_for(lambda: checkpoints(home))
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True, check=True
    )
    os.kill(int(workers.stdout.split()[0]), signal.SIGKILL)
    assert process.wait(60) == 1
    stop.unlink()
    record = only_record(home / "dead")
    assert record.status == "failed"
    assert "signal 9" in (record.error or "")
    assert run_to_the_end("dead").measured.resumed == 1


def a_run(home: Path) -> Run:
    (run,) = make_grid(
        open_prepared("tiny", home / "home"), methods=["plain"], backbones=["dnn"], seeds=[1],
        domain_set="default", indicator=None, config=make_config(epochs=1),
    )  # fmt: skip
    return run


def test_a_process_without_a_parent_records_no_failed_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, its = multiprocessing.Pipe()
    ours.send(a_run(home))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("ctrbench.train.loop.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(
        "ctrbench.runs.engines.local_backend.send_message",
        lambda *message: (ours.close(), send_message(*message)),
    )
    store = RunStore(results=tmp_path, home=home / "home")
    with pytest.raises(SystemExit, match="the parent process has exited"):
        serve_runs(its, store, 60.0)
    assert not list(store.records())


def test_a_process_that_dies_after_writing_its_record_keeps_it(
    home: Path, tmp_path: Path, record: Callable[..., RunRecord]
) -> None:
    run = a_run(home)
    store = RunStore(results=tmp_path, home=home / "home")
    identity = {"run": run.key.run, "digest": run.key.digest, "key": run.key}
    done = record().model_copy(update=identity)
    store.write(done)
    assert record_death(run, store, -9) == done == store.find(run.key)


class Pipe:
    """A pipe with one run in it."""

    def __init__(self) -> None:
        self.waiting, self.sent = ["run"], []  # type: ignore[var-annotated]

    def recv(self) -> str:
        if not self.waiting:
            raise EOFError
        return self.waiting.pop()

    def send(self, message: object) -> None:
        self.sent.append(pickle.loads(pickle.dumps(message)))


def test_a_record_that_cannot_be_written_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise DataError("no space left on the disk", value="a.json", remedy="free disk space")

    monkeypatch.setattr("ctrbench.runs.execute.execute", full)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    pipe = Pipe()
    serve_runs(pipe, RunStore(results=tmp_path, home=tmp_path), 1.0)  # type: ignore[arg-type]
    assert [str(error) for error in pipe.sent] == ["no space left on the disk: a.json. free disk space"]
    assert isinstance(pipe.sent[0], DataError)


def backend(**settings: Any) -> LocalBackend:  # noqa: ANN401
    engine = make_engine(**{"config": make_config(), "checkpoint_seconds": 1.0, **settings})
    assert isinstance(engine.backend, LocalBackend)
    return engine.backend


def free_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr("ctrbench.runs.engines.capacity.available_memory", lambda: free)
    monkeypatch.setattr("ctrbench.runs.engines.capacity.cores", lambda: 4)


def test_too_little_memory_for_all_workers_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, int(10e9))
    said: list[str] = []
    for workers in (3, 4):
        make_engine(
            config=make_config(), checkpoint_seconds=1.0, workers=workers, memory_per_run=int(3e9),
            notify=said.append,
        )  # fmt: skip
    assert said == ["warning: 4 workers need about 3.0 GB each, more than the free memory"]


def test_memory_limits_the_number_of_parallel_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, int(10e9))
    said: list[str] = []
    assert backend(memory_per_run=int(3e9), notify=said.append).jobs == 3
    assert said == ["limiting to 3 parallel runs: not enough memory for more, at 3.0 GB per run"]


def test_too_little_memory_for_one_run_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, int(10e9))
    said: list[str] = []
    assert backend(memory_per_run=int(43e9), notify=said.append).jobs == 1
    assert said == ["warning: a run needs about 43.0 GB, more than the free memory"]


def test_a_limit_of_cores_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, int(100e9))
    assert backend(memory_per_run=int(3e9), notify=pytest.fail).jobs == 4


def test_an_explicit_number_of_jobs_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, int(5e9))
    assert backend(jobs=7, memory_per_run=int(3e9), notify=pytest.fail).jobs == 7


def test_processes_use_gpus_in_turn() -> None:
    local = LocalBackend(5, checkpoint_seconds=1.0, devices=("2", "7"))
    assert [local.device_of(i) for i in range(5)] == ["2", "7", "2", "7", "2"]
    assert LocalBackend(1, checkpoint_seconds=1.0).device_of(0) is None


def test_a_process_sees_only_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,7")
    monkeypatch.setattr(
        "ctrbench.runs.execute.execute", lambda *_, **__: seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)
    serve_runs(Pipe(), RunStore(results=tmp_path, home=tmp_path), 1.0, "7")  # type: ignore[arg-type]
    assert seen == ["7"]


def test_processes_started_in_the_block_ignore_ctrl_c_and_the_parent_does_not_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    code = "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) != signal.SIG_IGN)"
    with ignored_interrupts():
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["local", "ray"])
def test_workers_of_a_run_do_not_share_a_gpu(name: str) -> None:
    with pytest.raises(SettingError, match=r"--gpus-per-run 0\.5\. leave out --gpus-per-run or --workers"):
        backend(name=name, config=make_config(device="cuda"), workers=2, gpus_per_run=0.5)


def test_each_worker_of_a_run_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctrbench.runs.engines.engine.gpus", lambda: ("0",))
    with pytest.raises(SettingError, match="--workers 2 with 1 GPUs"):
        backend(config=make_config(device="cuda"), workers=2)


def test_an_unknown_engine_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingError, match=r"unknown engine: rai\. did you mean 'ray'\?"):
        backend(name="rai")


def test_only_a_ray_cluster_has_an_address() -> None:
    with pytest.raises(SettingError, match="add --engine ray"):
        backend(address="auto")
