"""Bookkeeping of a sweep on Ray, without a cluster: deaths, progress and records."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from ctrbench.errors import DataError
from ctrbench.runs.engines.ray_pool import RETRIES, Pool, Task
from ctrbench.runs.engines.ray_sweep import Sweep, SweepSettings
from ctrbench.runs.grid import Run
from ctrbench.runs.outcome import failed_record
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.loop import Tick

ray = pytest.importorskip("ray", reason="the Ray engine needs Ray: pip install 'ctrbench[ray]'")


class Mailbox:
    """A mailbox with one message."""

    def __init__(self, run: Run, number: int, step: int) -> None:
        tick = Tick(epoch=1, epochs=1, step=step, steps=9, loss=0.0, rows_per_second=0.0, dev_auc=None)
        self.messages, self.take = [(run.key.digest, number, pickle.dumps(tick))], self

    def remote(self) -> object:
        return self.messages


@pytest.fixture
def sweep(home: Path, tmp_path: Path) -> Sweep:
    """A sweep without a cluster."""
    module = SimpleNamespace(exceptions=ray.exceptions, get=lambda answer: answer)
    settings = SweepSettings(needs={"CPU": 1}, checkpoint_seconds=1.0)
    return Sweep(module, settings, RunStore(results=tmp_path, home=home / "home"), Mock())


def pool() -> Pool[Run]:
    return Pool(ray, [], lambda _task: None, lambda: 0)


def test_a_run_whose_workers_always_die_is_a_failed_run(run: Run, sweep: Sweep) -> None:
    task, tasks = Task(item=run), pool()
    for _ in range(RETRIES + 1):
        sweep.complete(tasks, task, ray.exceptions.WorkerCrashedError())
    (record,) = sweep.records
    assert record.status == "failed"
    assert "gave up after 4 attempts" in str(record.error)
    assert list(sweep.store.records()) == [record]
    assert task.attempt == RETRIES == len(tasks.waiting)


def test_an_error_of_a_node_is_raised(run: Run, sweep: Sweep) -> None:
    with pytest.raises(DataError, match="no space"):
        sweep.complete(pool(), Task(item=run), DataError("no space"))


def test_progress_resets_the_count_of_deaths(run: Run, sweep: Sweep) -> None:
    task = Task(item=run, deaths=3, attempt=5, step=10)
    sweep.mailbox = Mailbox(task.item, 5, 11)
    sweep.receive([task])
    assert (task.deaths, task.step) == (0, 11)
    task.deaths = 3
    sweep.mailbox = Mailbox(task.item, 5, 11)
    sweep.receive([task])
    assert task.deaths == 3


def test_messages_of_an_earlier_attempt_are_ignored(run: Run, sweep: Sweep) -> None:
    task = Task(item=run, deaths=3, attempt=5)
    sweep.mailbox = Mailbox(task.item, 4, 11)
    sweep.receive([task])
    assert task.deaths == 3


def test_a_run_whose_record_was_written_before_its_worker_died_is_not_repeated(
    run: Run, sweep: Sweep, record: Callable[[], RunRecord]
) -> None:
    done = failed_record(run, "").model_copy(update={"status": "finished", "result": record().result})
    sweep.store.write(done)
    tasks = pool()
    sweep.complete(tasks, Task(item=run), ray.exceptions.NodeDiedError("gone"))
    assert (sweep.records, tasks.is_busy) == ([done], False)
    sweep.repeated.add(run.key.digest)
    sweep.complete(tasks, Task(item=run), ray.exceptions.NodeDiedError("gone"))
    assert tasks.is_busy


def test_records_of_a_folder_that_is_not_shared_are_written_here(run: Run, sweep: Sweep) -> None:
    made = failed_record(run, "why")
    sweep.complete(pool(), Task(item=run), made)
    assert list(sweep.store.records()) == [made]
