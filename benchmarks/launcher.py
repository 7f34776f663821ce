"""Runs a command to its end and writes its seconds and the peak memory of its largest process to a file, as JSON.

A process of its own, and a small one: the system counts what a process held when it started another as that other's
peak, so the peak of a process that a large one starts is never below its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    start = time.perf_counter()
    status = subprocess.call(sys.argv[2:])
    figures = {
        "seconds": time.perf_counter() - start,
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }
    Path(sys.argv[1]).write_text(json.dumps(figures), encoding="utf-8")
    sys.exit(status)
