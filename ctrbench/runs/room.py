"""What a run takes in memory, and how many runs this machine has room for: cores, memory and GPUs.

The estimate is of the peak of a process that makes one run, from what is counted before anything is built: rows,
parameters, the size of a batch. It is for deciding how many runs go side by side, so it had rather be too large.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctrbench.errors import SettingError
from ctrbench.names import Split

if TYPE_CHECKING:
    from ctrbench.data.shards import Prepared
    from ctrbench.train.config import TrainConfig

PROCESS_BYTES = 700 << 20
"""Of a process before it holds rows: Python, torch, polars and their buffers."""
PARAMETER_BYTES = 24
"""A weight, Adam's two moments, the gradient, the best weight so far, and the step of the last update."""
ACTIVATION_COPIES = 16
"""What a step holds of its inputs, forward and backward, in copies of the embedded batch."""
LIST_LENGTH = 8
"""Ids taken for a list of them, whose length is known only once it is read."""
COPIES_READ = 2
"""Rows lie in memory twice while they are read: as columns and as the block that training reads."""
MEMORY_SHARE = 0.9
"""Of the free memory that runs may take; the rest is everybody else's."""


def run_memory(prepared: Prepared, config: TrainConfig, num_parameters: int) -> int:
    """Estimate the peak memory of a run in bytes."""
    activations = config.batch_size * len(prepared.manifest.fields) * config.embedding_size * 4
    return (
        PROCESS_BYTES
        + num_parameters * PARAMETER_BYTES
        + rows_held(prepared, config) * row_bytes(prepared) * COPIES_READ
        + activations * ACTIVATION_COPIES
    )


def rows_held(prepared: Prepared, config: TrainConfig) -> int:
    """Return the rows of all splits that a run holds at a time: all, or no more than a window of each."""
    most = config.window or max(info.rows for info in prepared.manifest.splits.values())
    return sum(min(info.rows, most) for split, info in prepared.manifest.splits.items() if split in Split)


def row_bytes(prepared: Prepared) -> int:
    """Return the bytes of a row in memory: its fields, two domains, the label, the row's number and the user."""
    lists = sum(field.kind in ("multi_valued", "sequence") for field in prepared.manifest.fields)
    singles = len(prepared.manifest.fields) - lists
    return 4 * singles + (4 * LIST_LENGTH + 8) * lists + 32


@dataclass(frozen=True, kw_only=True)
class Room:
    """Runs side by side, and what allows no more."""

    jobs: int
    limit: str = "cores"
    devices: tuple[str, ...] = ()
    """GPUs, as CUDA_VISIBLE_DEVICES names them; runs take them in turn."""


def find_room(config: TrainConfig, *, memory_a_run: int = 0, gpus_a_run: float = 1.0) -> Room:
    """Return how many runs go side by side here; at least one, whatever is said of it."""
    devices = gpus() if config.device == "cuda" else ()
    allowed = {"cores": cores() // config.threads}
    if config.device == "cuda":
        allowed["GPUs"] = len(devices) * int(1 / gpus_a_run)
    free = available_memory()
    if memory_a_run and free is not None:
        allowed["memory"] = int(free * MEMORY_SHARE) // memory_a_run
    limit = min(allowed, key=lambda name: allowed[name])
    return Room(jobs=max(1, allowed[limit]), limit=limit, devices=devices)


def gpu_share(config: TrainConfig, gpus_a_run: float | None) -> float:
    """Return the share of a GPU that a run takes, 0 on the CPU; raises `SettingError` for what cannot be."""
    if config.device != "cuda":
        if gpus_a_run is not None:
            raise SettingError("only runs on GPUs share them", value=gpus_a_run, remedy="add --device cuda")
        return 0.0
    share = 1.0 if gpus_a_run is None else gpus_a_run
    if not 0.0 < share <= 1.0:
        raise SettingError("a run takes one GPU or a part of one", value=share, remedy="such as 0.25")
    return share


def cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> tuple[str, ...]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip() not in ("", "-1"))
    import torch

    return tuple(str(number) for number in range(torch.cuda.device_count()))


def available_memory() -> int | None:
    """Return the bytes that new processes can have: of the machine or, if less, of the container; None if unknown."""
    found = [free for free in (_of_machine(), _of_container()) if free is not None]
    return min(found, default=None)


def _of_machine(file: Path = Path("/proc/meminfo")) -> int | None:
    with suppress(OSError, StopIteration):
        lines = file.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return None


def _of_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return what the control group leaves; files in its memory count as free, since they give way."""
    with suppress(OSError, ValueError):
        most = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        files = sum(
            int(line.split()[1]) for line in lines if line.split()[0] in ("active_file", "inactive_file")
        )
        return max(0, most - used + files)
    return None
