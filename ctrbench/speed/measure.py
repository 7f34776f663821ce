"""All figures of one case, from a few seconds of training.

First the work of a few steps is counted with a model that is then discarded; this also compiles code and fills caches.
Then a new model is timed in slices without instruments, and finally with timers around the parts of its steps.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import time
from dataclasses import dataclass

import torch

from ctrbench.runs.machine import peak_memory, reset_peak_memory
from ctrbench.speed.bounds import Bounds, Roofs, Work, bounds, count_work
from ctrbench.speed.phases import Phase, time_phases
from ctrbench.speed.training import EndlessTraining, SpeedCase, wait

SLICES = 7
"""Number of slices of the timed steps; the median over slices is reported."""
COUNT_SHARE, PHASES_SHARE = 0.25, 0.5
"""Duration of counting work and of timing phases, relative to that of the timed steps."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Consecutive timed steps."""

    steps: int
    rows: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of a case; those per step are for a step of `rows_per_step` rows."""

    rows_per_second: float
    """Median over slices."""
    rows_per_step: float
    """Mean number of rows that a step used; some learners choose their own batch sizes."""
    ms_per_step: float
    slice_rows_per_second: tuple[float, ...]
    phases_ms: dict[Phase, float]
    """Milliseconds per step by phase, timed in a separate pass, so their sum differs slightly from `ms_per_step`."""
    peak_memory_bytes: int | None
    """Peak memory of model, optimizer and steps, without memory used before; None if it cannot be measured."""
    parameters: dict[str, int]
    work: Work
    bounds: Bounds
    closeness: float
    """Larger bound of a step's time in relation to its measured time, in percent."""


def measure(case: SpeedCase, roofs: Roofs, *, seconds: float) -> Figures:
    """Train a case for about `seconds`, then for a shorter time to count work and time phases."""
    work = count_work(EndlessTraining(case), seconds=COUNT_SHARE * seconds)
    before = start_memory(case.device)
    training = EndlessTraining(case)
    slices = time_steps(training, seconds=seconds)
    memory = None if before is None else max(0, memory_peak(case.device) - before)
    speeds = tuple(part.rows / part.seconds for part in slices)
    rows = sum(part.rows for part in slices) / sum(part.steps for part in slices)
    ms_per_step, lower = 1e3 * rows / statistics.median(speeds), bounds(work, roofs, rows=rows)
    return Figures(
        rows_per_second=statistics.median(speeds),
        rows_per_step=rows,
        ms_per_step=ms_per_step,
        slice_rows_per_second=speeds,
        phases_ms=time_phases(training, seconds=PHASES_SHARE * seconds).ms(rows),
        peak_memory_bytes=memory,
        parameters=training.model.num_parameters(),
        work=work,
        bounds=lower,
        closeness=100.0 * lower.ms / ms_per_step,
    )


def time_steps(training: EndlessTraining, *, seconds: float) -> list[Slice]:
    """Time steps in slices, after a warm-up of one slice."""
    return [_time_slice(training, seconds / SLICES) for _ in range(SLICES + 1)][1:]


def _time_slice(training: EndlessTraining, seconds: float) -> Slice:
    """Make steps for `seconds`, at least one, with only clock readings between them."""
    steps = rows = 0
    device, started = training.case.device, time.perf_counter()
    while not steps or time.perf_counter() - started < seconds:
        rows += training.step(training.next_batch()).rows
        steps += 1
    wait(device)
    return Slice(steps=steps, rows=rows, seconds=time.perf_counter() - started)


def start_memory(device: torch.device) -> int | None:
    """Release free memory, reset the peak and return the memory in use, in bytes; None if it cannot be measured."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    _release_free_memory()
    reset_peak_memory()
    return peak_memory() if os.access("/proc/self/clear_refs", os.W_OK) else None


def memory_peak(device: torch.device) -> int:
    """Return the peak since `start_memory`, in bytes: of allocations on a GPU, or of this process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def _release_free_memory() -> None:
    # The C library keeps freed memory; the next case would reuse it and appear to need none.
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
