from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.errors import SettingError, StoreError
from ctrbench.eval.metrics.registry import builtin_metrics
from ctrbench.report import write
from ctrbench.report.bin_scores import bin_metrics
from ctrbench.report.leaderboard import END, START
from ctrbench.report.write import report
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore


@pytest.fixture
def filled(store: RunStore, toy: list[RunRecord], record: Callable[..., RunRecord]) -> RunStore:
    for run in (*toy, record("star", 1, status="failed", error="out of memory")):
        store.write(run)
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


def test_a_report_is_a_folder_of_tables_charts_and_a_page(filled: RunStore, tmp_path: Path) -> None:
    files = report(filled, dataset="toy", out=tmp_path / "out")
    assert {file.name for file in files.paths} == set(contents(tmp_path / "out"))
    assert {file.name for file in files.pictures} >= {
        f"{stem}.{kind}" for stem in ("auc", "gauc", "gain-auc", "gain-gauc") for kind in ("svg", "png")
    }
    assert {file.name for file in files.tables} == {
        f"{s}.{k}" for s in ("overall", "bins") for k in ("md", "tex", "csv")
    }
    assert "star on dnn: out of memory." in (tmp_path / "out/overall.md").read_text()
    # Quality and cost of the methods, differences in AUC and in GAUC, and each metric of bins.
    assert len(files.terminal) == 4 + len(bin_metrics(builtin_metrics()))


def test_the_same_records_give_the_same_bytes(filled: RunStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        report(filled, dataset="toy", out=tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_each_comparison_has_charts(
    store: RunStore, record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    for size in (256, 512):
        store.write(record(train={"batch_size": size, "lr": 0.001}))
    files = report(store, dataset="toy", out=tmp_path / "out")
    assert {file.stem for file in files.pictures} >= {"auc-1", "auc-2", "gauc-1", "gauc-2"}
    text = (tmp_path / "out/overall.md").read_text()
    assert text.count("### Test results · toy · domains a × b · batch\\_size") == 2


def test_the_distance_from_a_known_truth_is_shown(
    store: RunStore, record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    for name, oracle in (("known", {"auc": 0.8, "auc_expected": 0.8}), ("unknown", {})):
        store.write(record(dataset=name, oracle=oracle))
        report(store, dataset=name, out=tmp_path / name)
    shown = {name: (tmp_path / name / "overall.md").read_text() for name in ("known", "unknown")}
    assert {name: "Distance from the truth" in text for name, text in shown.items()} == {
        "known": True,
        "unknown": False,
    }


def test_failures_alone_make_a_report(
    store: RunStore, record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    store.write(record("star", status="failed", error="out of memory"))
    files = report(store, dataset="toy", out=tmp_path / "out")
    assert not {"auc.svg", "gauc.svg"} & {file.name for file in files.pictures}
    assert "out of memory" in files.page.read_text()


def test_a_leaderboard_without_markers_stops_the_report_before_it_writes(
    filled: RunStore, tmp_path: Path
) -> None:
    (tmp_path / "B.md").write_text("nothing here")
    with pytest.raises(StoreError, match="two markers"):
        report(filled, dataset="toy", out=tmp_path / "out", leaderboard=tmp_path / "B.md")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "part", ["render_chart", "render_page", "latex", "bins_csv", "terminal_tables", "updated_page"]
)
def test_a_report_that_cannot_be_rendered_leaves_the_previous_one(
    filled: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def draw_nothing(_chart: object, stem: Path) -> dict[Path, bytes]:
        return {stem.with_name(f"{stem.name}.{kind}"): b"<svg/>" for kind in ("svg", "png")}

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    board = tmp_path / "BENCHMARKS.md"
    board.write_text(f"{START}\n{END}\n", encoding="utf-8")
    monkeypatch.setattr(write, "render_chart", draw_nothing)
    report(filled, dataset="toy", out=tmp_path / "out", leaderboard=board)
    before = contents(tmp_path)
    monkeypatch.setattr(write, part, fail)
    for folder in ("out", "new"):
        with pytest.raises(ZeroDivisionError):
            report(filled, dataset="toy", out=tmp_path / folder, leaderboard=board)
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_folder_with_the_name_of_a_file_leaves_the_previous_report(
    filled: RunStore, tmp_path: Path
) -> None:
    (tmp_path / "out" / "bins.csv").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        report(filled, dataset="toy", out=tmp_path / "out")
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("bins", [0, -1, 6, 1000, 10**9, 10**30])
def test_more_bins_than_domains_are_refused_first(filled: RunStore, tmp_path: Path, bins: int) -> None:
    # Three domains in training, fewer than the default number of bins.
    with pytest.raises(SettingError, match="--bins must be between 1 and 5"):
        report(filled, dataset="toy", out=tmp_path / "out", bins=bins)
    assert not (tmp_path / "out").exists()
