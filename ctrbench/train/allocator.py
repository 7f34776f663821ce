"""Settings of the C library in a process that trains.

They change the speed of training, never its results.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameter numbers of `mallopt` in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Raise glibc's thresholds above which freed memory is returned to the system; no effect with other C libraries.

    By default every large tensor of a step is mapped again and its pages are cleared: 3 to 10 % of a step's time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # Older versions refuse more than 32 MiB.
    _ = mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_THRESHOLD, 32 << 20)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
