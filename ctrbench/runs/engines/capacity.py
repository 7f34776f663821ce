"""Memory per run, and how many parallel runs this machine can hold: cores, memory and GPUs.

The estimate is the peak memory of a process that executes one run, from numbers that are known before the model is
built: rows, parameters, batch size. It limits the number of parallel runs, so it errs on the high side.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ctrbench.data.prepared import Prepared
from ctrbench.errors import SettingError
from ctrbench.names import Split
from ctrbench.train.config import TrainConfig

PROCESS_BYTES = 700 << 20
"""Bytes of a process before it reads rows: Python, torch, polars and their buffers."""
PARAMETER_BYTES = 24
"""Bytes per parameter: weight, Adam's two moments, gradient, best weight so far, and step of the last update."""
STATE_BYTES = 12
"""Bytes per parameter without which no step can be made: weight, and Adam's two moments."""
ACTIVATION_COPIES = 16
"""Memory of a forward and backward pass, in copies of the embedded batch."""
LIST_LENGTH = 8
"""Ids assumed per list, whose true length is known only after reading."""
COPIES_READ = 2
"""Copies of rows in memory while they are read: as columns, and as the block that training reads."""
COPIES_STREAMED = 3
"""Copies of streamed rows in memory: the current window, the next one, and the shard that is being read."""
TRUTH_BYTES = 8
"""Bytes per row of a known click probability, or of its ceiling."""
MEMORY_SHARE = 0.9
"""Share of the free memory that runs may use."""


def run_memory(prepared: Prepared, config: TrainConfig, num_parameters: int) -> int:
    """Estimate the peak memory of a run in bytes."""
    activations = config.batch_size * len(prepared.manifest.fields) * config.embedding_size * 4
    copies = COPIES_READ if config.window is None else COPIES_STREAMED
    return (
        PROCESS_BYTES
        + num_parameters * PARAMETER_BYTES
        + rows_held(prepared, config) * row_bytes(prepared) * copies
        + activations * ACTIVATION_COPIES
    )


def rows_held(prepared: Prepared, config: TrainConfig) -> int:
    """Return the rows of all splits that are in memory at a time: all of them, or the shards of a window per split."""
    return sum(
        info.rows if config.window is None else min(info.rows, _window_rows(prepared, split, config.window))
        for split, info in prepared.manifest.splits.items()
    )


def _window_rows(prepared: Prepared, split: Split, window: int) -> int:
    """Return the rows of the shards that a window spans at most; shards are read whole."""
    import torch

    from ctrbench.data.stream import StreamedSplit

    rows = StreamedSplit(
        prepared=prepared, split=split, domain_set="", indicator="", window=window, device=torch.device("cpu")
    )
    return rows.num_shards * max(rows.sizes, default=0)


def row_bytes(prepared: Prepared) -> int:
    """Return the bytes per row in memory: fields, two domain ids, label, row number, user, and known probabilities."""
    manifest = prepared.manifest
    lists = [field.name for field in manifest.fields if field.kind in ("multi_valued", "sequence")]
    ids = sum(manifest.card.field(name).max_length or LIST_LENGTH for name in lists)
    truths = manifest.has_probability + (manifest.generator is not None)
    return 4 * (len(manifest.fields) - len(lists)) + 4 * ids + 8 * len(lists) + 32 + TRUTH_BYTES * truths


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The number of parallel runs, and the resource that limits it."""

    jobs: int
    limit: str = "cores"
    devices: tuple[str, ...] = ()
    """GPUs, as CUDA_VISIBLE_DEVICES names them; runs use them in turn."""


def find_capacity(config: TrainConfig, *, memory_per_run: int = 0, gpus_per_run: float = 1.0) -> Capacity:
    """Return how many runs this machine can execute in parallel, at least one."""
    devices = gpus() if config.device == "cuda" else ()
    max_jobs = {"cores": cores() // config.threads}
    if config.device == "cuda":
        max_jobs["GPUs"] = len(devices) * int(1 / gpus_per_run)
    max_processes = _max_processes(memory_per_run)
    if max_processes is not None:
        max_jobs["memory"] = max_processes
    limit = min(max_jobs, key=lambda name: max_jobs[name])
    return Capacity(jobs=max(1, max_jobs[limit]), limit=limit, devices=devices)


def fits(processes: int, memory_per_process: int) -> bool:
    """Return whether the free memory suffices for that many processes; True if it is unknown."""
    max_processes = _max_processes(memory_per_process)
    return max_processes is None or processes <= max_processes


def _max_processes(memory: int) -> int | None:
    free = available_memory()
    return None if free is None or not memory else int(free * MEMORY_SHARE) // memory


def resolve_gpus_per_run(config: TrainConfig, gpus_per_run: float | None) -> float:
    """Return the fraction of a GPU reserved per run, 0 on the CPU; raise `SettingError` if it is impossible."""
    if config.device != "cuda":
        if gpus_per_run is not None:
            raise SettingError(
                "--gpus-per-run must be used with --device cuda",
                value=f"--gpus-per-run {gpus_per_run:g}",
                remedy="add --device cuda",
            )
        return 0.0
    share = 1.0 if gpus_per_run is None else gpus_per_run
    if not 0.0 < share <= 1.0:
        remedy = "use a number such as 0.25"
        raise SettingError(
            "a run must use one GPU or a fraction of one", value=f"--gpus-per-run {share:g}", remedy=remedy
        )
    return share


def cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> tuple[str, ...]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip() not in ("", "-1"))
    import torch

    return tuple(str(number) for number in range(torch.cuda.device_count()))


def available_memory() -> int | None:
    """Return the free bytes of the machine or, if fewer, of the container; None if unknown."""
    known_bytes = [free for free in (free_of_machine(), free_of_container()) if free is not None]
    return min(known_bytes, default=None)


def total_memory(
    machine: Path = Path("/proc/meminfo"), container: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the bytes of the machine or, if fewer, of the container or the limit `ulimit -v`; None if unknown."""
    sizes = [_meminfo("MemTotal", machine), _limit_of_container(container), _limit_of_process()]
    return min((size for size in sizes if size is not None), default=None)


def _limit_of_container(folder: Path) -> int | None:
    """Return the limit of the control group, of version 2 or 1; None where there is none."""
    for file in (folder / "memory.max", folder / "memory" / "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return int(file.read_text(encoding="ascii"))
    return None


def _limit_of_process() -> int | None:
    try:
        import resource
    except ImportError:
        # Windows has no such limits.
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def free_of_machine(file: Path = Path("/proc/meminfo")) -> int | None:
    """Return the available memory of the machine in bytes, or None if the system does not tell."""
    return _meminfo("MemAvailable", file)


def _meminfo(name: str, file: Path) -> int | None:
    with suppress(OSError, StopIteration):
        lines = file.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    return None


def free_of_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the free bytes of the control group; cached files count as free, since they are evicted on demand."""
    with suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        files = sum(
            int(line.split()[1]) for line in lines if line.split()[0] in ("active_file", "inactive_file")
        )
        return max(0, limit - used + files)
    return None
