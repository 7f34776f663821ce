"""A real Ray cluster of two nodes on this machine: the same records, even if nodes and workers die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from engine_grid import grid

from ctrbench.data.prepared import open_prepared
from ctrbench.discovery import Plugin
from ctrbench.errors import CtrbenchError, DataError, SettingError
from ctrbench.nn.exchange import Workers
from ctrbench.runs.engines.engine import RunEngine
from ctrbench.runs.engines.local_backend import LocalBackend
from ctrbench.runs.engines.ray_backend import RayBackend
from ctrbench.runs.engines.ray_cluster import import_ray
from ctrbench.runs.engines.ray_node import plugin_source, plugin_sources
from ctrbench.runs.engines.ray_pool import RETRIES, ray_map
from ctrbench.runs.execute import execute
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.outcome import failed_record
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.distributed import WorkerDied
from ctrbench.train.loop import Tick

ray = pytest.importorskip("ray", reason="the Ray engine needs Ray: pip install 'ctrbench[ray]'")

CHECKPOINT_SECONDS = 0.0
OBJECT_STORE_BYTES = 80 << 20
PLUGIN = '''
"""Plain, from a user's file, and slow to start, so that it ticks."""

import time

from ctrbench.extend import Learner, Method


class Slow(Learner):
    is_first = True
    refuses_workers = "it is slow"

    def step(self, *arguments):
        time.sleep(0.6 * self.is_first)
        self.is_first = False
        return super().step(*arguments)


class Mine(Method):
    def rewrite(self, plan):
        return plan

    def learner(self):
        return Slow()
'''


class Two:
    """A cluster of two nodes with a core each, one of which can be killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        size = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
        self.cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        self.second = self.cluster.add_node(**size)
        self.address: str = self.cluster.address

    def kill_second(self) -> None:
        raylet = next(iter(self.second.all_processes["raylet"])).process.pid
        found = subprocess.run(["pgrep", "-P", str(raylet)], capture_output=True, text=True, check=True)
        self.cluster.remove_node(self.second, allow_graceful=False)
        for pid in map(int, found.stdout.split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with pytest.MonkeyPatch.context() as patch:
        # Seconds between Ray Train's looks at its workers, so how late it sees that they are done; 2 by default.
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
        nodes = Two()
        yield nodes
        nodes.cluster.shutdown()


class Heard:
    """A watcher that writes down what it hears."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.steps: list[int] = []

    def started(self, run: Run) -> None:
        self.began.append(run.label)

    def ticked(self, run: Run, tick: Tick) -> None:
        self.steps.append(tick.step)

    def finished(self, run: Run, record: RunRecord) -> None:
        self.ended.append(run.label)


def sweep_of(home: Path) -> tuple[Run, ...]:
    """Two runs that can be stopped in their midst, and two that come after them."""
    return grid(home, (f"{home}/stopping.py",)) + grid(home)


def store(home: Path, results: str) -> RunStore:
    return RunStore(results=home / results, home=home / "home")


def checkpoints(home: Path) -> list[Path]:
    return list((home / "home" / "runs").glob("*/checkpoint.pt"))


def backend(two: Two, notify: Callable[[str], None] = print) -> RayBackend:
    return RayBackend(address=two.address, checkpoint_seconds=CHECKPOINT_SECONDS, notify=notify)


def shared_engine(address: str | None, workers: int = 2, checkpoint_seconds: float = 60.0) -> RunEngine:
    return RunEngine(
        backend=RayBackend(address=address, checkpoint_seconds=checkpoint_seconds), workers=workers
    )


def in_short(records: list[RunRecord]) -> dict[str, str]:
    return {record.run: record.reproducible() for record in records}


@pytest.fixture(scope="module")
def local(home: Path) -> dict[str, str]:
    """The records of the sweep, made without Ray."""
    made = LocalBackend(2, checkpoint_seconds=60.0).run_parallel(
        sweep_of(home), store(home, "local"), Heard()
    )
    return in_short(made)


def test_records_are_those_of_the_local_engine(home: Path, two: Two, local: dict[str, str]) -> None:
    heard = Heard()
    made = backend(two).run_parallel(sweep_of(home), store(home, "same"), heard)
    assert in_short(made) == local
    assert in_short(list(store(home, "same").records())) == local
    assert sorted(heard.began) == sorted(heard.ended) == sorted(run.label for run in sweep_of(home))
    assert not ray.is_initialized()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
def test_workers_on_two_nodes_give_the_results_of_one(home: Path, two: Two) -> None:
    """Ray Train starts a worker on each node; sums come in another order, so digits differ at the end."""
    pytest.importorskip("pandas", reason="Ray Train needs pandas: pip install 'ray[train]'")
    (run,) = make_grid(
        open_prepared("tiny", home / "home"),
        methods=["adasparse"],
        backbones=["dnn[hidden=8-4]"],
        seeds=[1],
        domain_set="default",
        indicator=None,
        config=make_config(epochs=1, batch_size=3000),
    )
    team = shared_engine(two.address)
    (record,) = team.run([run], store(home, "team"), Heard())
    assert record.error is None
    assert record.result is not None
    expected = execute(run, store(home, "alone")).result
    assert expected is not None
    assert record.result.steps == expected.steps == 8
    assert record.result.test["logloss"] == pytest.approx(expected.test["logloss"], abs=1e-5)
    assert record.measured.machine["workers"] == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
def test_the_next_run_is_executed_after_one_that_fails(
    home: Path, two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders are relative to the command's, and nodes do not have the file of the second plug-in."""
    pytest.importorskip("pandas", reason="Ray Train needs pandas: pip install 'ray[train]'")
    for name, body in (("bad", "raise RuntimeError('boom')"), ("mine", "return Learner()")):
        (tmp_path / f"{name}.py").write_text(PLUGIN.replace("return Slow()", body), encoding="utf-8")
    bad, mine = (grid(home, (f"{tmp_path}/{name}.py",), (1,), batch_size=6000)[0] for name in ("bad", "mine"))
    files = {run.key.digest: plugin_sources(run) for run in (bad, mine)}
    (tmp_path / "mine.py").unlink()
    monkeypatch.setattr("ctrbench.runs.engines.shared_run.plugin_sources", lambda run: files[run.key.digest])
    monkeypatch.chdir(home)
    here = RunStore(results=Path("relative"), home=Path("home"))
    runs = [replace(grid(home)[0], unsupported="why"), bad, mine]
    made = shared_engine(two.address).run(runs, here, Heard())
    assert [record.status for record in made] == ["unsupported", "failed", "finished"]
    assert str(made[1].error).endswith("RuntimeError: boom")
    assert [here.find(run.key) for run in runs] == made


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
def test_more_workers_than_the_cluster_holds_are_refused(home: Path, two: Two) -> None:
    with pytest.raises(SettingError, match="--workers 3, capacity 2"):
        shared_engine(two.address, 3).run(grid(home), store(home, "3"), Heard())


def test_a_plugin_file_reaches_the_nodes_and_ticks_come_back(
    home: Path, two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, heard = tmp_path / "mine.py", Heard()
    file.write_text(PLUGIN, encoding="utf-8")
    (run,) = grid(home, (str(file),), (1,))
    sha256 = run.method.sha256

    def taken(plugin: Plugin) -> bytes | None:
        content = plugin_source(plugin)
        file.unlink(missing_ok=True)
        return content

    # Nodes do not have the file.
    monkeypatch.setattr("ctrbench.runs.engines.ray_node.plugin_source", taken)
    (record,) = backend(two).run_parallel([run], store(home, "plugin"), heard)
    assert record.status == "finished"
    assert record.code.method_sha256 == sha256
    assert 1 in heard.steps


def test_ctrl_c_kills_the_runs_which_resume_later(
    home: Path, two: Two, local: dict[str, str], stop: Path, wait_for: Callable[..., None]
) -> None:
    process = subprocess.Popen([sys.executable, __file__, str(home), two.address], stderr=subprocess.DEVNULL)
    wait_for(lambda: checkpoints(home))
    process.send_signal(signal.SIGINT)
    process.wait(60)
    stop.unlink()
    (left,) = checkpoints(home)
    assert not list(store(home, "stopped").records())
    (record,) = backend(two).run_parallel(sweep_of(home)[:1], store(home, "stopped"), Heard())
    assert record.measured.resumed == 1
    assert record.reproducible() == local[record.run]
    assert not left.exists()


def test_ray_map_gives_all_results(two: Two) -> None:
    assert sorted(ray_map(lambda number: number * number, range(6), address=two.address)) == [
        0,
        1,
        4,
        9,
        16,
        25,
    ]


def test_ray_map_tries_a_dead_item_again(two: Two, tmp_path: Path) -> None:
    def dies_once(number: int) -> int:
        file = tmp_path / str(number)
        if number == 1 and not file.exists():
            file.touch()
            os._exit(1)
        return number

    assert sorted(ray_map(dies_once, range(3), address=two.address)) == [0, 1, 2]


def test_ray_map_gives_up_on_what_always_dies(two: Two, tmp_path: Path) -> None:
    def dies(number: int) -> None:
        (tmp_path / str(time.time_ns())).touch()
        os._exit(1)

    with pytest.raises(DataError, match=r"gave up after 4 attempts.*worker died"):
        list(ray_map(dies, [7], address=two.address))
    assert len(list(tmp_path.iterdir())) == RETRIES + 1


def test_ray_map_raises_a_users_error_as_it_is(two: Two) -> None:
    def refuse(number: int) -> None:
        raise DataError("no such shard", value=number, remedy="make it")

    with pytest.raises(DataError, match=r"^no such shard: 3\. make it$"):
        list(ray_map(refuse, [3], address=two.address))


def test_a_run_that_no_node_can_hold_is_refused(home: Path, two: Two) -> None:
    large = RayBackend(address=two.address, checkpoint_seconds=1.0, cpus_per_run=3, memory_per_run=10**9)
    with pytest.raises(
        SettingError, match=r"a node of the cluster must have the capacity for one run: 3 cores, 1\.0 GB"
    ):
        large.run_parallel(grid(home), store(home, "large"), Heard())


def test_a_killed_node_neither_loses_nor_repeats_records(
    home: Path, two: Two, local: dict[str, str], stop: Path, wait_for: Callable[..., None]
) -> None:
    said: list[str] = []

    def kill() -> None:
        try:
            wait_for(lambda: len(checkpoints(home)) == 2)
            two.kill_second()
        finally:
            stop.unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    made = backend(two, said.append).run_parallel(sweep_of(home), store(home, "killed"), Heard())
    killer.join()
    assert len(made) == len(local)
    assert in_short(made) == in_short(list(store(home, "killed").records())) == local
    assert sorted(record.measured.resumed for record in made) == [0, 0, 0, 1]
    assert len(said) == 1
    assert "resuming elsewhere" in said[0]


# Without a cluster.


def test_no_cluster_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(SettingError, match=rf"no Ray cluster answers: {address} .*ray start --head"):
        list(ray_map(str, [1], address=address))


def test_a_missing_extra_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"pip install 'ctrbench\[ray\]'"):
        list(ray_map(str, [1]))


def test_ray_is_imported_when_it_is_needed() -> None:
    code = "import ctrbench.runs.engines.ray_backend, sys; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> RunEngine:
    """An engine of two workers per run, without a cluster."""
    monkeypatch.setattr("ctrbench.runs.engines.ray_backend.connect", lambda _address: nullcontext())
    monkeypatch.setattr("ctrbench.runs.engines.shared_run.check_capacity", lambda *_: None)
    return shared_engine(None, checkpoint_seconds=1.0)


def test_the_record_of_a_team_is_written_here(
    home: Path, tmp_path: Path, team: RunEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, here = grid(home)[0], RunStore(results=tmp_path, home=home / "home")
    made = failed_record(run, "why")
    monkeypatch.setattr("ctrbench.runs.engines.shared_run.start_ray", lambda *_, **__: made)
    assert team.run([run], here, Heard()) == [made] == list(here.records())


def test_a_death_in_a_team_is_a_failed_run(
    home: Path, tmp_path: Path, team: RunEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise WorkerDied("its node")

    monkeypatch.setattr("ctrbench.runs.engines.shared_run.start_ray", die)
    here = RunStore(results=tmp_path, home=home / "home")
    (record,) = team.run(grid(home)[:1], here, Heard())
    assert record.error == "a worker died: its node; run the same command again to resume"
    assert here.find(record.key) == record


def test_a_node_that_cannot_execute_runs_ends_the_sweep(
    home: Path, tmp_path: Path, team: RunEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ctrbench.runs.engines.shared_run.start_ray",
        lambda f, _size, *given, **_: f(Workers(rank=0, size=1), *given),
    )
    monkeypatch.setattr("ctrbench.runs.engines.ray_node.socket.gethostname", lambda: "there")
    with pytest.raises(CtrbenchError, match="all nodes must see the prepared data"):
        team.run(grid(home), RunStore(results=tmp_path, home=tmp_path), Heard())


def test_ray_telemetry_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    import_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


if __name__ == "__main__":
    # One run, for the test that stops it.
    folder, address = Path(sys.argv[1]), sys.argv[2]
    stopped = RayBackend(address=address, checkpoint_seconds=CHECKPOINT_SECONDS)
    stopped.run_parallel(sweep_of(folder)[:1], store(folder, "stopped"), Heard())
