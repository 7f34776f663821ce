"""Writing files so that they appear whole or not at all.

A file is written under a temporary name in its own folder and renamed when it is complete; whatever goes wrong, the old
file stays and nothing half written is left. A full disk is a user's error with a remedy, not a traceback.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctrbench.errors import DataError


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; it becomes `file`, made with its folder, when the block ends well."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(file)
    except OSError as error:
        if is_disk_full(error):
            remedy = "make room, or use another disk (CTRBENCH_HOME moves the cache)"
            raise DataError("no space left on the disk", value=file, remedy=remedy) from None
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> Path:
    """Write a text file (UTF-8, line ends as they are) in one move."""
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8", newline="")
    return file


def is_disk_full(error: OSError) -> bool:
    """Tell a full disk from other faults; libraries that wrap the system's error keep its number in the text."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
