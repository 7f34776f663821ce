"""The command that measures training: bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from ctrbench.speed.bounds import Roofs

Call = Callable[..., CompletedProcess[str]]
BENCH = ("bench", "--rows", "200", "--domains", "3", "--batch-sizes", "64", "--embedding-rows", "500")


@pytest.fixture(autouse=True)
def roofs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the measurement of the machine."""
    roofs = Roofs(gflops=100.0, gigabytes_per_second=10.0)
    monkeypatch.setattr("ctrbench.speed.bench.measure_roofs", lambda _: roofs)


def test_bench_prints_and_writes_figures(folder: Path, call: Call) -> None:
    done = call(*BENCH, "--methods", "plain,star", "--seconds", "0.01", "--json", "s.json")
    assert done.returncode == 0
    lines = json.loads((folder / "s.json").read_text(encoding="utf-8"))["lines"]
    assert [line["method"] for line in lines] == ["plain", "star"]
    assert all(f"{line['figures']['rows_per_second']:,.0f}" in done.stdout for line in lines)
    assert "[2/2] star × dnn, 3 domains, batch 64" in done.stderr


def test_bench_of_a_failing_plugin_goes_on_and_ends_with_1(prepared: Path, call: Call) -> None:
    done = call(*BENCH, "--methods", "broken.py,plain", "--seconds", "0.01")
    assert done.returncode == 1
    assert "batch 64: broken.py, line 7, in rewrite: KeyError: 'no such stage'" in done.stdout
    assert " plain " in done.stdout


BAD = {
    "method": (("--methods", "plane"), "plain"),
    "file": (("--methods", "missing.py"), "no such file"),
    "rows": (("--rows", "63"), "a batch must not exceed the"),
    "domains": (("--domains", "ten"), "numbers from 1 to 16,777,216"),
    "batch size": (("--batch-sizes", "0"), "numbers from 1 to 16,777,216"),
    "dataset with domains": (("--dataset", "tiny"), "--domains must not be used with --dataset"),
    "seconds": (("--seconds", "0"), "seconds"),
    "device": (("--device", "tpu"), "cuda"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(
    folder: Path, call: Call, arguments: tuple[str, ...], message: str
) -> None:
    done = call(*BENCH, *arguments, "--json", "s.json")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "s.json").exists()
