"""Composition of engines: a backend (this machine or a Ray cluster) × the number of workers per run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ctrbench.errors import SettingError, did_you_mean
from ctrbench.runs.engines.capacity import find_capacity, fits, gpus, resolve_gpus_per_run
from ctrbench.runs.engines.local_backend import LocalBackend
from ctrbench.runs.engines.protocol import Backend, Watcher
from ctrbench.runs.engines.ray_backend import RayBackend
from ctrbench.runs.engines.ray_pool import ray_map
from ctrbench.runs.grid import Run
from ctrbench.runs.machine import device_of
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.train.config import TrainConfig

ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class RunEngine:
    """Executes runs on a backend: in parallel with one worker each, or one after the other with several."""

    backend: Backend
    workers: int = 1

    def run(self, runs: Iterable[Run], store: RunStore, watcher: Watcher) -> list[RunRecord]:
        """Execute all runs; return their records in the order of completion."""
        if self.workers == 1:
            return self.backend.run_parallel(runs, store, watcher)
        records = []
        with self.backend.open_shared(store, self.workers) as execute:
            for run in runs:
                watcher.started(run)
                records.append(execute(run, watcher))
                watcher.finished(run, records[-1])
        return records


def make_engine(
    name: str = "local",
    *,
    config: TrainConfig,
    checkpoint_seconds: float,
    jobs: int | None = None,
    address: str | None = None,
    gpus_per_run: float | None = None,
    memory_per_run: int = 0,
    workers: int = 1,
    notify: Callable[[str], None] = lambda _line: None,
) -> RunEngine:
    """Return the engine of that name.

    `memory_per_run` is `capacity.run_memory` of the largest run in bytes; 0 ignores memory. With several `workers`,
    each run is executed by that many processes, one run after the other. `notify` receives warnings for the user.
    Raises `SettingError` for settings that exclude one another or that the machine cannot satisfy.
    """
    check_engine(name, config=config, jobs=jobs, address=address, gpus_per_run=gpus_per_run, workers=workers)
    share = 0.0 if workers > 1 else resolve_gpus_per_run(config, gpus_per_run)
    if name == "ray":
        backend: Backend = RayBackend(
            address=address,
            checkpoint_seconds=checkpoint_seconds,
            cpus_per_run=config.threads,
            gpus_per_run=share,
            memory_per_run=memory_per_run,
            jobs=jobs,
            notify=notify,
        )
    elif workers > 1:
        _warn_if_shared_exceeds_memory(workers, memory_per_run, notify)
        backend = LocalBackend(1, checkpoint_seconds=checkpoint_seconds)
    else:
        backend = _local_backend(config, checkpoint_seconds, jobs, share, memory_per_run, notify)
    return RunEngine(backend=backend, workers=workers)


def check_engine(
    name: str,
    *,
    config: TrainConfig,
    jobs: int | None = None,
    address: str | None = None,
    gpus_per_run: float | None = None,
    workers: int = 1,
) -> None:
    """Raise `SettingError` for settings that exclude one another or that this machine cannot satisfy."""
    _check_name(name, address)
    if workers > 1:
        _check_shared(name, workers, config, jobs, gpus_per_run)
    else:
        resolve_gpus_per_run(config, gpus_per_run)
    if name == "local":
        device_of(config)


def _local_backend(
    config: TrainConfig,
    checkpoint_seconds: float,
    jobs: int | None,
    gpus_per_run: float,
    memory_per_run: int,
    notify: Callable[[str], None],
) -> LocalBackend:
    capacity = find_capacity(config, memory_per_run=memory_per_run, gpus_per_run=gpus_per_run or 1.0)
    size = f"{memory_per_run / 1e9:.1f} GB"
    if not fits(1, memory_per_run):
        notify(f"warning: a run needs about {size}, more than the free memory")
    elif jobs is None and capacity.limit == "memory":
        notify(f"limiting to {capacity.jobs} parallel runs: not enough memory for more, at {size} per run")
    return LocalBackend(
        jobs or capacity.jobs, checkpoint_seconds=checkpoint_seconds, devices=capacity.devices
    )


def _warn_if_shared_exceeds_memory(workers: int, memory_per_run: int, notify: Callable[[str], None]) -> None:
    if not fits(workers, memory_per_run):
        size = f"{memory_per_run / 1e9:.1f} GB"
        notify(f"warning: {workers} workers need about {size} each, more than the free memory")


def make_dispatcher(name: str, address: str | None) -> Callable[..., Iterator[Any]] | None:
    """Return a function that applies a function to items on the named engine; None means processes of this machine."""
    _check_name(name, address)
    return None if name == "local" else partial(ray_map, address=address)


def _check_name(name: str, address: str | None) -> None:
    if name not in ENGINES:
        raise SettingError("unknown engine", value=name, remedy=did_you_mean(name, ENGINES))
    if name == "local" and address is not None:
        raise SettingError(
            "an address must be that of a Ray cluster", value=address, remedy="add --engine ray"
        )


def _check_shared(
    name: str, workers: int, config: TrainConfig, jobs: int | None, gpus_per_run: float | None
) -> None:
    if jobs is not None:
        remedy = "leave out --jobs or --workers"
        raise SettingError(
            "--jobs must not be combined with --workers, which executes one run at a time",
            value=f"--jobs {jobs}",
            remedy=remedy,
        )
    if gpus_per_run is not None:
        raise SettingError(
            "each worker of a run must have its own GPU",
            value=f"--gpus-per-run {gpus_per_run:g}",
            remedy="leave out --gpus-per-run or --workers",
        )
    if name == "local" and config.device == "cuda" and (num_gpus := len(gpus())) < workers:
        raise SettingError(
            "each worker of a run must have its own GPU",
            value=f"--workers {workers} with {num_gpus} GPUs",
            remedy="use at most as many workers as GPUs, or leave out --device cuda",
        )
