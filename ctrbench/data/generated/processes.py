"""A map over processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ctrbench.errors import DataError

T = TypeVar("T")
R = TypeVar("R")


def map_in_processes(jobs: int) -> Callable[[Callable[[T], R], Sequence[T]], Iterator[R]]:
    """Return a map over that many processes, results in any order; one job or one item runs in this process.

    An interrupt waits for the running items and drops the others.
    """

    def dispatch(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        if jobs == 1 or len(items) == 1:
            yield from map(function, items)
            return
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(jobs, len(items)), mp_context=context, initializer=_ignore_interrupts)
        try:
            for future in as_completed([pool.submit(function, item) for item in items]):
                yield future.result()
        except BrokenProcessPool:
            remedy = "run the same command again to resume; fewer --jobs need less memory"
            raise DataError("a process that generates rows died", remedy=remedy) from None
        finally:
            pool.shutdown(cancel_futures=True)

    return dispatch


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
