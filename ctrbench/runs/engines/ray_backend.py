"""The Ray backend: runs as tasks on the nodes of a Ray cluster, with the same records as on one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from ctrbench.runs.engines.protocol import ExecuteShared, Watcher
from ctrbench.runs.engines.ray_cluster import connect
from ctrbench.runs.engines.ray_node import with_absolute_paths
from ctrbench.runs.engines.ray_sweep import Sweep, SweepSettings
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore


class RayBackend:
    """Executes runs on the nodes of a Ray cluster."""

    def __init__(
        self,
        *,
        address: str | None = None,
        checkpoint_seconds: float,
        cpus_per_run: float = 1,
        gpus_per_run: float = 0.0,
        memory_per_run: int = 0,
        jobs: int | None = None,
        notify: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Make a backend; see `engine.make_engine`. The default address is the cluster that this machine belongs to."""
        self.address = address
        needs = {"CPU": cpus_per_run, "GPU": gpus_per_run, "memory": memory_per_run}
        self.settings = SweepSettings(
            needs=needs, checkpoint_seconds=checkpoint_seconds, jobs=jobs, notify=notify
        )

    def run_parallel(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Execute runs in parallel, one task per run; return their records in the order of completion."""
        with connect(self.address) as ray:
            return Sweep(ray, self.settings, store, watcher).run(runs)

    @contextmanager
    def open_shared(self, store: RunStore, workers: int) -> Iterator[ExecuteShared]:
        """Yield a function that executes one run by that many workers on the nodes."""
        from ctrbench.runs.engines.shared_run import execute_shared_on_cluster

        with connect(self.address) as ray:
            yield partial(
                execute_shared_on_cluster,
                ray=ray,
                store=with_absolute_paths(store),
                workers=workers,
                checkpoint_seconds=self.settings.checkpoint_seconds,
            )
