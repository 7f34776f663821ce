from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ctrbench.cli import show_speed
from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.errors import DataError, SettingError
from ctrbench.speed import bench as module
from ctrbench.speed.bench import BenchResult, Request, bench, parse_counts, write_json
from ctrbench.speed.bounds import Bounds, Roofs, Work
from ctrbench.speed.measure import Figures
from ctrbench.train.config import TrainConfig

FIGURES = Figures(
    rows_per_second=12_345.0,
    rows_per_step=63.0,
    ms_per_step=5.103,
    slice_rows_per_second=(12_345.0,),
    phases_ms={"data": 0.0523, "embedding": 0.5, "forward": 1.25, "backward": 3.5, "optimizer": 0.25},
    peak_memory_bytes=67_000_000,
    parameters={"embedding": 3_213_296, "dense": 57_601, "per_domain": 0},
    work=Work(rows=63.0, flops=123e6, bytes=9e6),
    bounds=Bounds(arithmetic_ms=1.0, bandwidth_ms=2.04),
    closeness=39.98,
)


@pytest.fixture
def figured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace measuring by constant figures."""
    monkeypatch.setattr(module, "measure", lambda *_, seconds: FIGURES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_roofs", lambda _: Roofs(gflops=123.0, gigabytes_per_second=4.5))


def request_of(**changes: Any) -> Request:  # noqa: ANN401
    settings: dict[str, Any] = {
        "methods": ("plain",),
        "backbones": ("dnn[hidden=8-4]",),
        "batch_sizes": (64,),
        "domains": (3,),
        "rows": 200,
        "embedding_rows": 500,
        "seconds": 0.01,
        "config": TrainConfig(embedding_size=4),
    }
    return Request(**(settings | changes))


def a_method(folder: Path, name: str, body: str) -> str:
    file = folder / f"{name}.py"
    file.write_text(
        '"""A method from a file."""\n\nfrom ctrbench.extend import Method, Plan\n\n\n'
        f"class Own(Method):\n    def rewrite(self, plan: Plan) -> Plan:\n        return plan\n\n{body}",
        encoding="utf-8",
    )
    return str(file)


FAILING = "    def supports(self, plan: Plan) -> str:\n        raise KeyError('no such stage')\n"
CHOOSY = "    def supports(self, plan: Plan) -> str:\n        return 'it has no tower'\n"


@pytest.mark.usefixtures("figured")
def test_methods_are_measured_in_succession_for_every_other_choice() -> None:
    progress: list[tuple[str, int, int]] = []
    result = bench(
        request_of(methods=("plain", "star"), batch_sizes=(64, 32), domains=(3, 5)),
        progress=lambda *arguments: progress.append(arguments),
    )
    cases = [(case.domains, case.batch_size, case.method) for case in result.cases]
    assert cases == [
        (domains, batch, method) for domains in (3, 5) for batch in (64, 32) for method in ("plain", "star")
    ]
    assert progress[0] == ("plain × dnn[hidden=8-4], 3 domains, batch 64", 1, 8)
    assert progress[-1][1:] == (8, 8)


def test_a_method_from_a_file_is_measured(tmp_path: Path) -> None:
    own, plain = bench(request_of(methods=(a_method(tmp_path, "own", ""), "plain"))).cases
    assert own.figures is not None
    assert plain.figures is not None
    assert own.figures.parameters == plain.figures.parameters


@pytest.mark.usefixtures("figured")
@pytest.mark.parametrize(
    ("body", "reason", "has_failed"),
    [
        (CHOOSY, "it has no tower", False),
        (FAILING, "own.py, line 11, in supports: KeyError: 'no such stage'", True),
    ],
    ids=["unsupported", "failing"],
)
def test_a_case_that_cannot_be_measured_has_a_reason(
    tmp_path: Path, body: str, reason: str, has_failed: bool
) -> None:
    case, other = bench(request_of(methods=(a_method(tmp_path, "own", body), "plain"))).cases
    assert (case.figures, case.reason, case.has_failed) == (None, reason, has_failed)
    assert other.figures == FIGURES


@pytest.fixture
def dataset(tmp_path: Path, write_tiny: Callable[..., DatasetCard], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path / "home"))
    rows = 120
    columns = {"time": range(rows), "shop": [f"s{row % 4}" for row in range(rows)], "click": [0, 1] * 60}
    return prepare(write_tiny(tmp_path, columns)).manifest.name


def of_dataset(dataset: str, **changes: Any) -> Request:  # noqa: ANN401
    return request_of(dataset=dataset, **({"domains": None, "rows": None, "embedding_rows": None} | changes))


def test_a_prepared_dataset_replaces_synthetic_rows(dataset: str) -> None:
    (case,) = bench(of_dataset(dataset)).cases
    assert (case.data, case.rows, case.domains) == ("tiny", 80, 4)
    assert case.figures is not None
    assert case.figures.parameters["embedding"] == 5 * 4


@pytest.mark.parametrize("option", ["domains", "rows", "embedding_rows"])
def test_options_of_synthetic_rows_exclude_a_dataset(dataset: str, option: str) -> None:
    value = (3,) if option == "domains" else 100
    with pytest.raises(SettingError, match=f"--{option.replace('_', '-')} must not be used with --dataset"):
        bench(of_dataset(dataset, **{option: value}))


def test_a_dataset_smaller_than_a_batch_is_refused(dataset: str) -> None:
    with pytest.raises(SettingError, match="a batch must not exceed the 80 rows"):
        bench(of_dataset(dataset, batch_sizes=(16, 81)))


def test_a_missing_dataset_is_refused(dataset: str) -> None:
    with pytest.raises(DataError, match="tiny"):
        bench(of_dataset("tinny"))


BAD = [
    ({"methods": ("plane",)}, "plain"),
    ({"backbones": ("dcnv3",)}, "dcnv2"),
    ({"methods": ("star[colour=red]",)}, "colour"),
    ({"rows": 63}, "must not exceed the 63 rows"),
    ({"embedding_rows": 40}, "must have 47 embedding rows"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(bad[0]) for bad in BAD])
def test_impossible_requests_are_refused_before_measuring(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure_roofs", lambda _: pytest.fail("nothing is measured before"))
    with pytest.raises(SettingError, match=message):
        bench(request_of(**changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_refused() -> None:
    with pytest.raises(SettingError, match="no CUDA device"):
        bench(request_of(config=TrainConfig(device="cuda")))


def test_repeated_counts_are_dropped() -> None:
    assert parse_counts("10, 300,10,", "--domains") == (10, 300)


@pytest.mark.parametrize("text", ["", ",", "0", "-1", "1.5", "ten", "²", "16777217", "9" * 5_000])
def test_wrong_counts_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="--domains must be numbers from 1 to 16,777,216"):
        parse_counts(text, "--domains")


@pytest.fixture
def result(tmp_path: Path, figured: None) -> BenchResult:
    return bench(request_of(methods=("plain", a_method(tmp_path, "own", CHOOSY))))


def test_the_json_file_has_every_figure_and_the_machine(result: BenchResult, tmp_path: Path) -> None:
    content = json.loads(write_json(result, tmp_path / "speed.json").read_text(encoding="utf-8"))
    line, other = content["lines"]
    assert line["figures"] == json.loads(json.dumps(asdict(FIGURES)))
    assert (line["method"], line["backbone"], line["domains"]) == ("plain", "dnn[hidden=8-4]", 3)
    assert other["reason"] == "it has no tower"
    assert content["roofs"] == {"gflops": 123.0, "gigabytes_per_second": 4.5}
    assert content["machine"]["threads"] == 1
    assert content["settings"] == {"seconds": 0.01, "embedding_size": 4, "lr": 0.001, "optimizer": "adam"}


def test_the_tables_show_the_figures(result: BenchResult, capsys: pytest.CaptureFixture[str]) -> None:
    show_speed.show_speed(result)
    shown = capsys.readouterr().out
    rows = [line.split()[2:] for line in shown.splitlines() if line.split()[:1] == ["plain"]]
    assert rows == [
        ["3", "64", "12,345", "5.10", "0.0523", "0.500", "1.25", "3.50", "0.250"],
        ["3", "64", "63", "67", "3.21M", "57.6k", "0", "1.00", "2.04", "40", "%"],
    ]
    assert "batch 64: it has no tower" in shown
    assert "123 GFLOP/s" in shown
    assert "4.5 GB/s" in shown


def test_unknown_memory_is_shown_as_a_dash(result: BenchResult, capsys: pytest.CaptureFixture[str]) -> None:
    case = replace(result.cases[0], figures=replace(FIGURES, peak_memory_bytes=None))
    show_speed.show_speed(replace(result, cases=(case,)))
    assert " – " in capsys.readouterr().out
