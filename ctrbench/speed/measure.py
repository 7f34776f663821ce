"""All figures of one case, from a few seconds of training.

First a model that is thrown away makes a few counted steps, which also loads and compiles what only a first step does.
Then a fresh one is timed without any instrument, slice by slice, and after that with timers around its parts.
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
from ctrbench.speed.phases import Phase, split_steps
from ctrbench.speed.training import Case, Training, wait

SLICES = 7
"""Parts of the measured seconds, of which the median counts."""
COUNT_SHARE, SPLIT_SHARE = 0.25, 0.5
"""Seconds spent on counting work and on the split into phases, as shares of those spent on speed."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some steps on end."""

    steps: int
    rows: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured and counted of a case; a step is one of `rows_per_step` rows."""

    rows_per_second: float
    """Median over slices."""
    rows_per_step: float
    """Mean of what the learner says it used; some learners cut batches of their own sizes."""
    ms_per_step: float
    slice_rows_per_second: tuple[float, ...]
    phases_ms: dict[Phase, float]
    """Milliseconds a step by phase, from a pass of its own with timers, so the sum is not quite `ms_per_step`."""
    peak_memory_bytes: int | None
    """Most that model, optimiser and steps took beyond what was there before; None where it cannot be told."""
    parameters: dict[str, int]
    work: Work
    bounds: Bounds
    closeness: float
    """Percent: the larger bound over the measured step."""


def measure(case: Case, roofs: Roofs, *, seconds: float) -> Figures:
    """Train a case for about that many seconds, and some more to count and to split, and return its figures."""
    work = count_work(Training(case), seconds=COUNT_SHARE * seconds)
    before = start_memory(case.device)
    training = Training(case)
    slices = time_steps(training, seconds=seconds)
    memory = None if before is None else max(0, memory_peak(case.device) - before)
    speeds = tuple(one.rows / one.seconds for one in slices)
    rows = sum(one.rows for one in slices) / sum(one.steps for one in slices)
    ms_per_step, least = 1e3 * rows / statistics.median(speeds), bounds(work, roofs, rows=rows)
    return Figures(
        rows_per_second=statistics.median(speeds),
        rows_per_step=rows,
        ms_per_step=ms_per_step,
        slice_rows_per_second=speeds,
        phases_ms=split_steps(training, seconds=SPLIT_SHARE * seconds).ms(rows),
        peak_memory_bytes=memory,
        parameters=training.model.num_parameters(),
        work=work,
        bounds=least,
        closeness=100.0 * least.ms / ms_per_step,
    )


def time_steps(training: Training, *, seconds: float) -> list[Slice]:
    """Time steps in slices after a warm-up as long as one of them."""
    return [_slice(training, seconds / SLICES) for _ in range(SLICES + 1)][1:]


def _slice(training: Training, seconds: float) -> Slice:
    """Make steps for that long, one at least; nothing but clock readings stands between them."""
    steps = rows = 0
    device, started = training.case.device, time.perf_counter()
    while not steps or time.perf_counter() - started < seconds:
        rows += training.step(training.next_batch()).rows
        steps += 1
    wait(device)
    return Slice(steps=steps, rows=rows, seconds=time.perf_counter() - started)


def start_memory(device: torch.device) -> int | None:
    """Give back what is free, start the count of the peak anew and return where it stands, in bytes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    _give_back()
    reset_peak_memory()
    return peak_memory() if os.access("/proc/self/clear_refs", os.W_OK) else None


def memory_peak(device: torch.device) -> int:
    """Return the peak since `start_memory`, in bytes: of the device's allocations, or of this process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()


def _give_back() -> None:
    # The C library keeps what is freed; the next case would live in it and seem to need nothing.
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
