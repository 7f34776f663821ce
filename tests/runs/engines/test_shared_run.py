"""One run executed by two workers: the results of one worker, and the record."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctrbench.data.prepared import open_prepared
from ctrbench.names import Column
from ctrbench.runs.engines.engine import RunEngine
from ctrbench.runs.engines.local_backend import LocalBackend
from ctrbench.runs.execute import execute
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.outcome import failed_record, record_failure
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.loop import Tick

FAILING = '''
"""Plain, which one worker or all cannot train."""

from torch import distributed

from ctrbench.extend import Method


class Failing(Method):
    rank: int = -1

    def rewrite(self, plan):
        return plan

    def learner(self):
        if self.rank in (-1, distributed.get_rank()):
            raise RuntimeError("boom")
        return super().learner()
'''
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Heard:
    """A watcher that keeps what it hears, and may kill a worker."""

    def __init__(self, *, kill: bool = False) -> None:
        self.ticks: list[Tick] = []
        self.records: list[RunRecord] = []
        self.kill = kill

    def started(self, run: Run) -> None:
        pass

    def ticked(self, run: Run, tick: Tick) -> None:
        self.ticks.append(tick)
        if self.kill:
            self.kill = False
            os.kill(_a_worker(), signal.SIGKILL)

    def finished(self, run: Run, record: RunRecord) -> None:
        self.records.append(record)


def _a_worker() -> int:
    """Return a process that this one has started to work."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return max(pid for pid in map(int, children) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text())


def shared_engine(checkpoint_seconds: float = 60.0) -> RunEngine:
    """Return an engine of two workers per run."""
    return RunEngine(backend=LocalBackend(1, checkpoint_seconds=checkpoint_seconds), workers=2)


def grid(home: Path, *methods: str, **settings: object) -> tuple[Run, ...]:
    given = {"epochs": 1, "batch_size": 512, "embedding_size": 4, "window": None, **settings}
    return make_grid(
        open_prepared("tiny", home / "home"),
        methods=methods,
        backbones=["dnn[hidden=8-4]"],
        seeds=[1],
        domain_set="default",
        indicator=None,
        config=make_config(**given),
    )


def store_of(home: Path, folder: Path) -> RunStore:
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "datasets").symlink_to(home / "home" / "datasets")
    return RunStore(results=folder / "results", home=folder / "home")


@pytest.mark.parametrize("window", [None, 9_000])
def test_two_workers_give_the_results_of_one(home: Path, tmp_path: Path, window: int | None) -> None:
    runs = grid(home, "plain", "adasparse", window=window)
    alone, together = store_of(home, tmp_path / "one"), store_of(home, tmp_path / "two")
    heard = Heard()
    records = shared_engine().run(runs, together, heard)
    for run, record in zip(runs, records, strict=True):
        expected = execute(run, alone)
        assert record.error is None
        assert record.result is not None
        assert expected.result is not None
        assert record.measured.machine["workers"] == 2
        assert (record.result.steps, record.result.rows_seen) == (expected.result.steps, 24_000)
        scores = [
            pl.read_parquet(store.predictions_file(run.key))[Column.SCORE].to_numpy()
            for store in (alone, together)
        ]
        assert np.abs(scores[0] - scores[1]).max() < 1e-4
        assert record.result.test["logloss"] == pytest.approx(expected.result.test["logloss"], abs=1e-5)
        assert together.find(run.key) == record
    assert heard.records == records


def test_methods_that_refuse_several_workers_fail_with_the_reason(home: Path, tmp_path: Path) -> None:
    store = store_of(home, tmp_path)
    records = shared_engine().run(grid(home, "maml", "gbdt"), store, Heard())
    assert [record.status for record in records] == ["failed", "failed"]
    assert "its own steps" in (records[0].error or "")
    assert "leave out --workers" in (records[1].error or "")


def test_an_error_in_a_plugin_is_the_record_of_the_first_worker(home: Path, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING, encoding="utf-8")
    store = store_of(home, tmp_path)
    runs = grid(home, *(f"{tmp_path}/failing.py[rank={rank}]" for rank in (-1, 0)))
    records = shared_engine().run(runs, store, Heard())
    assert [record.error for record in records] == ["failing.py, line 17, in learner: RuntimeError: boom"] * 2
    assert [store.find(run.key) for run in runs] == records
    assert [record.measured.machine["workers"] for record in records] == [2, 2]


def test_the_error_of_another_worker_is_recorded_rather_than_its_consequence(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "failing.py").write_text(FAILING, encoding="utf-8")
    runs = grid(home, f"{tmp_path}/failing.py[rank=1]", "plain")
    first, second = shared_engine().run(runs, store_of(home, tmp_path), Heard())
    assert first.error == "a worker failed: failing.py, line 17, in learner: RuntimeError: boom"
    assert second.status == "finished"


def test_an_unsupported_pair_is_not_a_failure(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = grid(home, "plain")
    monkeypatch.setattr("ctrbench.runs.engines.shared_run.start_local", pytest.fail)
    store = store_of(home, tmp_path)
    (record,) = shared_engine().run([replace(run, unsupported="why")], store, Heard())
    assert (record.status, record.error) == ("unsupported", "why")
    assert store.find(run.key) == record


def test_a_finished_record_is_kept_when_its_worker_dies(
    home: Path, tmp_path: Path, record: Callable[[], RunRecord]
) -> None:
    (run,) = grid(home, "plain")
    store = store_of(home, tmp_path)
    done = failed_record(run, "").model_copy(update={"status": "finished", "result": record().result})
    store.write(done)
    assert record_failure(run, store, "a worker died") == done


def test_a_run_resumes_after_one_of_its_workers_was_killed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = grid(home, "plain", batch_size=32, epochs=2)
    store = store_of(home, tmp_path)
    engine = shared_engine(checkpoint_seconds=0.2)
    (first,) = engine.run([run], store, Heard(kill=True))
    assert (first.status, first.error is not None and "worker died" in first.error) == ("failed", True)
    assert (store.folder(run.key) / "checkpoint.pt").exists()
    (second,) = engine.run([run], store, Heard())
    assert second.status == "finished"
    assert second.measured.resumed == 1
