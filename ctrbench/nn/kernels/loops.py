"""Compiled loops over rows of numbers, executed in several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch

PARALLEL_NUMBERS = 1 << 17
"""Fewer numbers than this are processed by one thread: a second costs more than it gains."""

Array = np.ndarray


@cache
def _thread_pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def in_parts(loop: Callable[..., None], num_rows: int, row_size: int, *arguments: object) -> None:
    """Call `loop(start, stop, *arguments)` on parts of the rows, in torch's number of threads where that pays."""
    threads = torch.get_num_threads() if num_rows * row_size >= PARALLEL_NUMBERS else 1
    if threads == 1 or num_rows < threads:
        loop(0, num_rows, *arguments)
        return
    cuts = np.linspace(0, num_rows, threads + 1).astype(np.int64).tolist()
    jobs = [_thread_pool(threads).submit(loop, start, stop, *arguments) for start, stop in pairwise(cuts)]
    for job in jobs:
        job.result()
