from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import numba
import polars as pl
import pyarrow as pa
import pytest
import torch

from ctrbench.errors import SettingError
from ctrbench.failures import (
    LONGEST_MESSAGE,
    Interrupted,
    bug_error,
    describe_failure,
    is_failure,
    raised_signals,
    stop_code,
    stop_message,
    user_error,
)

PLUGIN = "ctrbench_plugin_mine"


def raise_in_plugin(error: BaseException) -> BaseException:
    """Return the exception with the traceback of a plug-in that raises it."""
    code = compile("def fail(error):\n    raise error\n", "/somewhere/mine.py", "exec")
    plugin: dict[str, Any] = {"__name__": PLUGIN}
    exec(code, plugin)
    with pytest.raises(type(error)) as raised:
        plugin["fail"](error)
    return raised.value


def system_error(number: int, file: str | None = "/x/y") -> OSError:
    return OSError(number, os.strerror(number), file)


@pytest.mark.parametrize(
    "number",
    [
        errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
        errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.EIO,
    ],
)  # fmt: skip
def test_an_error_of_the_operating_system_has_rule_value_and_remedy(number: int) -> None:
    shown = user_error(system_error(number))
    assert shown is not None
    assert (shown.rule, shown.value) == (os.strerror(number), "/x/y")
    assert shown.remedy


def test_a_missing_working_directory_is_named() -> None:
    shown = user_error(system_error(errno.ENOENT, None))
    assert shown is not None
    assert shown.value == "the working directory"


def test_the_number_in_the_text_of_a_library_is_read() -> None:
    shown = user_error(OSError("No space left on device (os error 28): /x"))
    assert shown is not None
    assert shown.remedy == "free some space, or choose a location on another disk"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        pa.lib.ArrowMemoryError("malloc of size 64 failed"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
        system_error(errno.ENOMEM),
    ],
)
def test_memory_that_ran_out_is_named_as_such(error: Exception) -> None:
    shown = user_error(error)
    assert shown is not None
    assert shown.rule == "not enough memory"
    assert "ulimit -v" in str(shown.remedy)
    assert describe_failure(error) == str(shown)


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "text has characters outside"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"), "text has characters outside"),
        (RecursionError("maximum recursion depth exceeded"), "a value is nested too deeply"),
        (pl.exceptions.ComputeError("invalid utf-8\nin line 3"), "polars cannot process"),
        (pa.ArrowInvalid("Not a parquet file"), "pyarrow cannot process"),
        (numba.core.errors.TypingError("Failed in nopython mode"), "numba cannot process"),
    ],
)
def test_an_error_of_a_library_is_one_line_with_a_remedy(error: Exception, rule: str) -> None:
    shown = user_error(error)
    assert shown is not None
    assert shown.rule.startswith(rule)
    assert shown.remedy
    assert "\n" not in str(shown)


def test_a_panic_of_a_library_in_rust_is_a_failure() -> None:
    panic = pl.exceptions.PanicException("index out of bounds")
    assert is_failure(panic)
    assert user_error(panic) is not None


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), AssertionError(), TypeError("x")])
def test_other_exceptions_are_bugs_whose_traceback_is_in_a_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(type(error)) as raised:
        raise error
    assert user_error(raised.value) is None
    shown = bug_error(raised.value)
    (file,) = tmp_path.iterdir()
    assert str(file) in str(shown.remedy)
    assert file.read_text(encoding="utf-8").startswith("Traceback (most recent call last):")


def test_a_bug_is_told_where_no_file_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    assert "--debug shows the traceback" in str(bug_error(KeyError("x")).remedy)


def test_a_long_message_is_shortened() -> None:
    shown = user_error(pl.exceptions.ComputeError("word " * 1000))
    assert shown is not None
    assert len(str(shown.value)) <= LONGEST_MESSAGE


def test_an_error_of_ctrbench_stays() -> None:
    error = SettingError("a rule")
    assert user_error(error) is error


@pytest.mark.parametrize(
    "error", [SystemExit(0), SystemExit(3), KeyboardInterrupt(), BaseException("x"), ValueError("x")]
)
def test_what_a_plugin_raises_is_its_failure_with_file_and_line(error: BaseException) -> None:
    with raised_signals():
        raised = raise_in_plugin(error)
        assert is_failure(raised)
    shown = user_error(raised)
    assert shown is not None
    assert "mine.py, line 2, in fail" in str(shown.value)


def test_ctrl_c_in_a_plugin_is_no_failure_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_failure(raise_in_plugin(Interrupted(signal.SIGINT)))
    # Python's own handler raises the same exception as a plug-in could.
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    assert not is_failure(raise_in_plugin(KeyboardInterrupt()))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_request_to_end_is_no_failure(error: BaseException) -> None:
    assert not is_failure(error)


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, 143, "Terminated.")],
)
def test_signals_are_raised_and_have_a_code_and_a_sentence(number: int, code: int, message: str) -> None:
    with raised_signals(), pytest.raises(Interrupted) as raised:
        os.kill(os.getpid(), number)
    assert (stop_code(raised.value), stop_message(raised.value)) == (code, message)


def test_handlers_of_signals_are_restored() -> None:
    earlier = signal.getsignal(signal.SIGTERM)
    with raised_signals():
        assert signal.getsignal(signal.SIGTERM) is not earlier
    assert signal.getsignal(signal.SIGTERM) is earlier


def test_an_ignored_signal_stays_ignored() -> None:
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with raised_signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, earlier)


def test_the_code_of_sys_exit_is_kept() -> None:
    assert [stop_code(SystemExit(code)) for code in (None, 0, 3, "a text")] == [0, 0, 3, 1]
