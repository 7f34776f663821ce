"""`python benchmarks/two_nodes.py`: two Ray nodes on this machine, a sweep, and one of them killed in the middle.

Prints a timeline of what the sweep and its nodes did, and holds the records against those that one process makes
without Ray. Needs the extra `ray`; takes a minute and leaves nothing behind. Exit code 1 if a record differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ctrbench.data.card import load_card
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import open_prepared
from ctrbench.runs.engines.local_backend import LocalBackend
from ctrbench.runs.engines.ray_backend import RayBackend
from ctrbench.runs.engines.ray_cluster import QUIET
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.store import RunStore

if TYPE_CHECKING:
    from ctrbench.runs.record import RunRecord

ROWS, SHOPS, ITEMS = 40_000, 8, 400
CARD = """
name = "synthetic"
title = "Synthetic clicks"
path = "synthetic.csv"
timestamp = "time"
representative = "shop"
label = { column = "click" }
domain_sets = { default = ["shop"] }
fields = [{ name = "shop" }, { name = "item" }]
"""
METHODS = ("plain", "adasparse")
SEEDS = (1, 2, 3)
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
CHECKPOINT_SECONDS = 0.5


class Timeline:
    """Prints what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line."""
        print(f"{time.monotonic() - self.start:6.1f} s  {line}", flush=True)  # noqa: T201

    def started(self, run: Run) -> None:
        """A run has begun."""
        self.say(f"{run.label}: started")

    def ticked(self, run: Run, tick: Any) -> None:  # noqa: ANN401
        """A run has gone on: too often to print."""

    def finished(self, run: Run, record: RunRecord) -> None:
        """A run has ended."""
        resumed = f", times resumed: {record.measured.resumed}" if record.measured.resumed else ""
        self.say(f"{run.label}: {record.status}{resumed}")


class Silent(Timeline):
    """Prints nothing of the runs."""

    def started(self, run: Run) -> None:
        """A run has begun."""

    def finished(self, run: Run, record: RunRecord) -> None:
        """A run has ended."""


def make_data(folder: Path) -> None:
    """Prepare synthetic rows in the folder."""
    generator = np.random.default_rng(0)
    shop, item = generator.integers(0, SHOPS, ROWS), generator.integers(0, ITEMS, ROWS)
    click = generator.random(ROWS) < 0.1 + 0.5 * ((shop + item) % 3 == 0)
    frame = {"time": np.arange(ROWS), "shop": shop, "item": item, "click": click.astype(np.int8)}
    pl.DataFrame(frame).write_csv(folder / "synthetic.csv")
    (folder / "synthetic.toml").write_text(CARD, encoding="utf-8")
    os.environ["CTRBENCH_HOME"] = str(folder / "home")
    prepare(load_card(str(folder / "synthetic.toml")))


def make_runs(folder: Path) -> tuple[Run, ...]:
    """Return the runs of the sweep."""
    return make_grid(
        open_prepared("synthetic", folder / "home"),
        methods=METHODS,
        backbones=["dnn[hidden=16-8]"],
        seeds=SEEDS,
        domain_set="default",
        indicator=None,
        config=make_config(epochs=3, patience=9, batch_size=32),
    )


def kill(cluster: Any, node: Any) -> int:  # noqa: ANN401
    """Kill a node's raylet and all its workers at once, as a machine dies; return how many processes that were."""
    raylet = next(iter(node.all_processes["raylet"])).process.pid
    found = subprocess.run(["pgrep", "-P", str(raylet)], capture_output=True, text=True, check=False)
    pids = [int(pid) for pid in found.stdout.split()]
    cluster.remove_node(node, allow_graceful=False)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids) + 1


def wait_and_kill(cluster: Any, node: Any, home: Path, seconds: float, timeline: Timeline) -> None:  # noqa: ANN401
    """Kill the node some seconds after two runs have checkpoints."""
    while len(list(home.glob("runs/*/checkpoint.pt"))) < 2:
        time.sleep(0.05)
    time.sleep(seconds)
    timeline.say(f"the second node is killed: {kill(cluster, node)} processes, SIGKILL")


def sweep(folder: Path, seconds: float, timeline: Timeline) -> list[RunRecord]:
    """Make the runs on two nodes of which one is killed."""
    os.environ.update(QUIET)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        second = cluster.add_node(**NODE)
        timeline.say("two nodes are up, a core each")
        arguments = (cluster, second, folder / "home", seconds, timeline)
        threading.Thread(target=wait_and_kill, args=arguments, daemon=True).start()
        engine = RayBackend(
            address=cluster.address, checkpoint_seconds=CHECKPOINT_SECONDS, notify=timeline.say
        )
        store = RunStore(results=folder / "cluster", home=folder / "home")
        return engine.run_parallel(make_runs(folder), store, timeline)
    finally:
        cluster.shutdown()


def verdict(local: Sequence[RunRecord], made: Sequence[RunRecord], on_disk: Sequence[RunRecord]) -> list[str]:
    """Return what is wrong with the records of the cluster, nothing if they are those of one process."""
    expected = sorted(record.reproducible() for record in local)
    wrong = []
    for name, records in (("returned", made), ("written", on_disk)):
        if sorted(record.reproducible() for record in records) != expected:
            wrong.append(f"the {len(records)} records {name} are not the {len(expected)} of one process")
    if not any(record.measured.resumed for record in made):
        wrong.append("no run was interrupted: killed too early or too late to show anything")
    return wrong


def main() -> None:
    """Run the sweep twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="from the checkpoints to the kill")
    seconds: float = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="ctrbench-two-nodes-") as name:
        folder = Path(name)
        make_data(folder)
        local = LocalBackend(2, checkpoint_seconds=60.0).run_parallel(
            make_runs(folder), RunStore(results=folder / "local", home=folder / "home"), Silent()
        )
        timeline = Timeline()
        timeline.say(f"{len(local)} records made without Ray, to compare with")
        made = sweep(folder, seconds, timeline)
        on_disk = list(RunStore(results=folder / "cluster", home=folder / "home").records())
        wrong = verdict(local, made, on_disk)
        same = f"{len(made)} records returned, {len(on_disk)} written, all bit-identical to those without Ray"
        timeline.say("; ".join(wrong) or same)
        left = len(list(folder.glob("home/runs/*/checkpoint.pt")))
        resumed = sum(record.measured.resumed > 0 for record in made)
        timeline.say(f"{resumed} of them resumed from a checkpoint; checkpoints left: {left}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
