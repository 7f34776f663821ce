"""The cache of compiled functions: where it lies, and that damage to it costs time only."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numba
import pytest

import ctrbench
from ctrbench import compiled as module
from ctrbench.compiled import compiled

CODE = """
from ctrbench.compiled import compiled

@compiled
def double(x):
    return 2 * x
"""
PRINTING = f"""{CODE}
print(double(21))
print(double.stats.cache_path, sum(double.stats.cache_hits.values()))
"""
WITHOUT_RIGHTS = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip
"""Beginning of a command as a user who can read all files, also the interpreter's, and write none."""


def run(folder: Path, *prefix: str, **variables: str) -> list[str]:
    """Execute the code in a folder, by way of another command if one is given; return its lines."""
    file = folder / "script.py"
    if not file.exists():
        file.write_text(PRINTING, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(ctrbench.__file__).parents[1]), **variables}
    done = subprocess.run(
        [*prefix, sys.executable, "-B", str(file)], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def load(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Execute the code in this process as a new one would, with the folder as cache; return its function."""
    file = tmp_path / "doubled.py"
    file.write_text(CODE, encoding="utf-8")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(cache))

    def execute() -> Any:  # noqa: ANN401  # numba has no types
        spec = spec_from_file_location("doubled", file)
        assert spec is not None
        assert spec.loader is not None
        doubled = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "doubled", doubled)
        spec.loader.exec_module(doubled)
        return doubled.double

    return execute


def test_the_second_process_reads_the_cache(tmp_path: Path, cache: Path) -> None:
    first, second = (run(tmp_path, NUMBA_CACHE_DIR=str(cache)) for _ in range(2))
    assert first[0] == second[0] == "42"
    assert (first[1].split()[-1], second[1].split()[-1]) == ("0", "1")


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", None], ids=["empty", "damaged", "outdated"])
def test_a_cache_that_cannot_be_read_is_made_again(
    load: Callable[[], Any], cache: Path, suffix: str, content: bytes | None
) -> None:
    assert load()(21) == 42
    (file,) = cache.rglob(f"*.{suffix}")
    # Unpickling looks up a class that no longer exists: an AttributeError.
    gone = b"cctrbench.errors\nGoneError\n."
    outdated = pickle.dumps(numba.__version__, -1) + gone if suffix == "nbi" else gone
    file.write_bytes(outdated if content is None else content)
    for num_hits in (0, 1):
        double = load()
        assert double(21) == 42
        assert sum(double.stats.cache_hits.values()) == num_hits


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_other_folders", lambda: iter(()))
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])

    @compiled
    def double(x: int) -> int:
        return 2 * x

    assert double(21) == 42


def test_a_full_disk_costs_the_cache_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", fail)

    @compiled
    def triple(x: int) -> int:
        return 3 * x

    assert triple(14) == 42


def test_a_temporary_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert not module._is_private(tmp_path)
    tmp_path.chmod(0o700)
    assert module._is_private(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    assert not module._is_private(tmp_path / "link")


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user"
)
@pytest.mark.parametrize("has_home", [True, False], ids=["CTRBENCH_HOME", "temporary"])
def test_the_cache_moves_where_neither_package_nor_home_can_be_written(
    tmp_path: Path, has_home: bool
) -> None:
    folders = [tmp_path / "home", tmp_path / "tmp"]
    for folder in folders:
        folder.mkdir()
        folder.chmod(0o777)
    variables = {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "TMPDIR": str(folders[1])}
    if has_home:
        variables["CTRBENCH_HOME"] = str(folders[0])
    lines = run(tmp_path, *WITHOUT_RIGHTS, **variables)
    assert lines[0] == "42"
    assert lines[1].startswith(str(folders[0 if has_home else 1]))
