"""Any exception as an error to show: of the operating system, of memory, of a library, of a plug-in.

`user_error` translates an exception into rule, value and remedy; None means a bug of ctrbench. `is_failure` separates
failures from requests to end the process: `sys.exit` or `raise KeyboardInterrupt` inside a plug-in is a failure of
the plug-in, Ctrl-C and SIGTERM are not.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from types import FrameType

from ctrbench.errors import (
    PLUGIN_MODULE,
    CtrbenchError,
    describe_exception,
    plugin_error,
    plugin_frame,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SIGNAL_EXIT = 128
"""Exit code of a process that a signal ended, less the number of the signal."""
LONGEST_MESSAGE = 300
"""Characters of a library's message that an error repeats."""
_LIBRARIES = {
    "polars": "polars",
    "pyarrow": "pyarrow",
    "numba": "numba",
    "pyo3_runtime": "a library",
    "lzma": "lzma",
    "_lzma": "lzma",
    "zlib": "zlib",
    "zipfile": "zipfile",
    "tarfile": "tarfile",
    "csv": "csv",
    "_csv": "csv",
}
"""Top-level module of an exception's class → library that raises it about data."""
_NO_MEMORY = re.compile(r"alloc_cpu|not enough memory|out of memory|cannot allocate memory", re.IGNORECASE)
_SYSTEM_NUMBER = re.compile(r"\(os error (\d+)\)")
_REMEDIES = {
    (errno.EACCES, errno.EPERM, errno.EROFS): "change its permissions, or choose another location",
    (errno.ENOSPC, errno.EDQUOT): "free some space, or choose a location on another disk",
    (errno.EFBIG,): "raise the limit on the size of files (ulimit -f), or choose another file system",
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY): "choose another location",
    (errno.ENAMETOOLONG,): "choose a shorter path; a file name has at most 255 bytes",
    (errno.ELOOP,): "remove the link that leads to itself",
    (errno.EMFILE, errno.ENFILE): "raise the limit on open files (ulimit -n), or use fewer --jobs",
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT): "check the disk or the network, and run the command again",
}
_MEMORY_REMEDY = (
    "free memory or raise its limit (ulimit -v), or need less: fewer --jobs, a smaller --batch-size, "
    "--embedding-size or --window"
)


class Interrupted(BaseException):
    """A signal that asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raised_signals(numbers: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Raise `Interrupted` on signals (default: Ctrl-C and SIGTERM); ignored ones stay ignored. Main thread only."""
    earlier = {number: signal.getsignal(number) for number in numbers}
    handled = [number for number in numbers if earlier[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, _raise_interrupted)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, earlier[number])


def _raise_interrupted(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def is_failure(error: BaseException) -> bool:
    """Return whether an exception is a failure, and not a request to end the process.

    Where Python's own handler of Ctrl-C is in place, a `KeyboardInterrupt` is taken for Ctrl-C.
    """
    if isinstance(error, Exception):
        return True
    if isinstance(error, Interrupted):
        return False
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return False
    return plugin_frame(error) is not None or _library(error) is not None


def stop_code(error: BaseException) -> int:
    """Return the exit code of a command that a signal or `sys.exit` ended."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return SIGNAL_EXIT + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


def stop_message(error: BaseException) -> str:
    """Return the sentence to show for a signal that ended a command; empty for `sys.exit`."""
    if isinstance(error, SystemExit):
        return ""
    return "Terminated." if stop_code(error) == SIGNAL_EXIT + signal.SIGTERM else "Interrupted."


def user_error(error: BaseException) -> CtrbenchError | None:
    """Return the error to show for an exception; None for a bug of ctrbench."""
    if isinstance(error, CtrbenchError):
        return error
    if _is_out_of_memory(error):
        return CtrbenchError("not enough memory", value=summary(error), remedy=_MEMORY_REMEDY)
    return plugin_error(error) or _system_error(error) or _text_error(error) or _library_error(error)


def describe_failure(error: BaseException) -> str:
    """Return an exception as text for records, with a remedy where memory ran out."""
    if _is_out_of_memory(error):
        return str(user_error(error))
    return describe_exception(error)


def summary(error: BaseException) -> str:
    """Return an exception in one line: file and line of a plug-in, type, and the beginning of its message."""
    return shorten(describe_exception(error), LONGEST_MESSAGE, placeholder=" …")


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    )


def _system_error(error: BaseException) -> CtrbenchError | None:
    if not isinstance(error, OSError):
        return None
    rule, value, number = error.strerror, error.filename, error.errno
    if number is None:
        # Some libraries have the system's error number in the text only.
        match = _SYSTEM_NUMBER.search(str(error))
        number = int(match[1]) if match else None
        rule, value = "cannot read or write a file", summary(error)
    elif number == errno.ENOENT and value is None:
        value = "the working directory"
    remedy = next((text for numbers, text in _REMEDIES.items() if number in numbers), None)
    return CtrbenchError(str(rule), value=value, remedy=remedy)


def _text_error(error: BaseException) -> CtrbenchError | None:
    if isinstance(error, UnicodeError):
        remedy = "save text files as UTF-8, and set LC_ALL=C.UTF-8 for names of files that are not ASCII"
        return CtrbenchError("text has characters outside its encoding", value=summary(error), remedy=remedy)
    if isinstance(error, RecursionError):
        remedy = "simplify the file that the command reads; --debug shows the traceback"
        return CtrbenchError("a value is nested too deeply", remedy=remedy)
    return None


def _library_error(error: BaseException) -> CtrbenchError | None:
    library = _library(error)
    if library is None:
        return None
    return CtrbenchError(
        f"{library} cannot process these data",
        value=summary(error),
        remedy="check the files that the command reads; --debug shows the traceback",
    )


def _library(error: BaseException) -> str | None:
    modules = (base.__module__.partition(".")[0] for base in type(error).__mro__)
    return next((_LIBRARIES[module] for module in modules if module in _LIBRARIES), None)


def bug_error(error: BaseException) -> CtrbenchError:
    """Write the traceback of a bug to a file, and return the error that names the file."""
    file = _write_traceback(error)
    where = f"the traceback is in {file}" if file else "--debug shows the traceback"
    loaded = {str(module.__file__) for name, module in sys.modules.items() if name.startswith(PLUGIN_MODULE)}
    plugins = sorted({Path(name).name for name in loaded})
    cause = f", or a fault of {', '.join(plugins)}" if plugins else ""
    return CtrbenchError(
        "unexpected error", value=summary(error), remedy=f"this is a bug of ctrbench{cause}; {where}"
    )


def _write_traceback(error: BaseException) -> Path | None:
    try:
        descriptor, name = tempfile.mkstemp(prefix="ctrbench-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return None
    return Path(name)
