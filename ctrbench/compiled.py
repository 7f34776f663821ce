"""Compilation of functions of numbers and numpy arrays with numba, and the cache of their machine code.

numba keeps the cache beside the sources or in the user's cache folder. Where neither can be written, it moves to
CTRBENCH_HOME or to a private temporary folder, and is off if that fails too. A cache that cannot be read, such as one
of an earlier version whose classes no longer exist, is discarded and the function is compiled again.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function when it is first called; the machine code is cached on disk where that is possible."""
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    cache = _make_cache(function)
    if cache is not None:
        # What `cache=True` does, with another class.
        dispatcher._cache = cache
    return cast(Function, dispatcher)


class _RobustCache:
    """A cache of numba whose damage or missing space costs time only."""

    def __init__(self, cache: Any) -> None:  # noqa: ANN401  # numba has no types
        self.cache = cache

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return any other part of the cache, such as its folder."""
        return getattr(self.cache, name)

    def load_overload(self, signature: object, context: object) -> object:
        """Return the stored machine code; None where there is none, or where it cannot be read."""
        try:
            return self.cache.load_overload(signature, context)
        except Exception:  # noqa: BLE001  # unpickling runs the code of other versions
            with suppress(Exception):
                self.cache.flush()
            return None

    def save_overload(self, signature: object, result: object) -> None:
        """Store machine code where there is space for it."""
        with suppress(Exception):
            self.cache.save_overload(signature, result)


def _make_cache(function: Callable[..., object]) -> _RobustCache | None:
    """Return the cache of a function, in the first folder that can be written; None where there is none."""
    make: Any = FunctionCache
    with suppress(RuntimeError, OSError):
        return _RobustCache(make(function))
    for folder in _other_folders():
        # Read by numba for each cache that is made from now on.
        vars(numba.config)["CACHE_DIR"] = str(folder)
        with suppress(RuntimeError, OSError):
            return _RobustCache(make(function))
    return None


def _other_folders() -> Iterator[Path]:
    home = os.environ.get("CTRBENCH_HOME", "")
    if home and "://" not in home:
        with suppress(RuntimeError, OSError):
            yield Path(home).expanduser().absolute() / "numba"
    folder = Path(tempfile.gettempdir()) / f"ctrbench-numba-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if _is_private(folder):
            yield folder


def _is_private(folder: Path) -> bool:
    """Return whether only this user can write to a folder: machine code is executed as it is found."""
    state = folder.lstat()
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022
