"""What a run takes in memory, and how many runs this machine has room for: cores, memory and GPUs.

The estimate is of the peak of a process that makes one run, from what is counted before anything is built: rows,
parameters, the size of a batch. It is for deciding how many runs go side by side, so it errs on the high side.
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
    from ctrbench.data.prepared import Prepared
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
COPIES_STREAMED = 3
"""Of streamed rows: the window being built stands beside the last one, and the next shard is read and dealt."""
TRUTH_BYTES = 8
"""Of a known probability, or of its ceiling."""
MEMORY_SHARE = 0.9
"""Of the free memory that runs may take; the rest is everybody else's."""


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
    """Return the rows of all splits that a run holds at a time: all, or the shards of a window of each."""
    return sum(
        info.rows if config.window is None else min(info.rows, _window_rows(prepared, split, config.window))
        for split, info in prepared.manifest.splits.items()
    )


def _window_rows(prepared: Prepared, split: Split, window: int) -> int:
    """Return the rows of as many of the largest shard as a window spans: shards are held whole."""
    import torch

    from ctrbench.data.stream import StreamedSplit

    rows = StreamedSplit(
        prepared=prepared, split=split, domain_set="", indicator="", window=window, device=torch.device("cpu")
    )
    return rows.num_shards * max(rows.sizes, default=0)


def row_bytes(prepared: Prepared) -> int:
    """Return the bytes of a row in memory: fields, two domains, label, number, user, and what is known of the truth."""
    manifest = prepared.manifest
    lists = [field.name for field in manifest.fields if field.kind in ("multi_valued", "sequence")]
    ids = sum(manifest.card.field(name).max_length or LIST_LENGTH for name in lists)
    truths = manifest.has_probability + (manifest.generator is not None)
    return 4 * (len(manifest.fields) - len(lists)) + 4 * ids + 8 * len(lists) + 32 + TRUTH_BYTES * truths


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
    most = _most_in_memory(memory_a_run)
    if most is not None:
        allowed["memory"] = most
    limit = min(allowed, key=lambda name: allowed[name])
    return Room(jobs=max(1, allowed[limit]), limit=limit, devices=devices)


def fit(processes: int, memory_a_process: int) -> bool:
    """Return whether so many processes find room in this machine's memory, as far as that is known."""
    most = _most_in_memory(memory_a_process)
    return most is None or processes <= most


def _most_in_memory(memory: int) -> int | None:
    free = available_memory()
    return None if free is None or not memory else int(free * MEMORY_SHARE) // memory


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
