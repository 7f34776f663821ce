"""The guides' examples: one plug-in of each kind, added as one file from a folder outside the package.

The files are those that the guides show, so the documented way to add a reader, a backbone, a method, a metric, a
chart and a study drawing is the one that is tested. Nothing else is edited.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctrbench.data.card import load_card
from ctrbench.data.generated.options import GenerationOptions
from ctrbench.data.prepare import estimate

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
FENCE = re.compile(r"^```\w+ title=\"(?P<file>[\w.]+)\"\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
ROWS = 900


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The files that the guides show, by name."""
    return {
        match["file"]: match["code"]
        for page in sorted(GUIDE.glob("own-*.md"))
        for match in FENCE.finditer(page.read_text(encoding="utf-8"))
    }


@pytest.fixture
def folder(files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with these files and `clicks.jsonl`, and a home of its own."""
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    generator = np.random.default_rng(0)
    lines = [
        json.dumps(
            {
                "time": i,
                "scenario": f"s{generator.integers(3)}",
                "item": f"i{generator.integers(20)}",
                "click": int(generator.random() < 0.4),
            }
        )
        for i in range(ROWS)
    ]
    (tmp_path / "clicks.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_the_guides_show_one_plugin_of_each_kind(files: dict[str, str]) -> None:
    assert {
        "json_lines.py", "own_last_layer.py", "squared.py", "my_brier.py", "gauc_over_auc.py", "best.py",
    } <= set(files)  # fmt: skip


@pytest.mark.usefixtures("trained_here")
def test_one_plugin_of_each_kind_is_added_from_a_folder(folder: Path, ctrbench: Callable[..., int]) -> None:
    small = ("--epochs", "1", "--jobs", "1", "--batch-size", "128", "--embedding-size", "4")
    assert ctrbench("check", "plain,own_last_layer.py", "--backbone", "squared.py") == 0
    assert ctrbench("prepare", "clicks.toml") == 0
    methods = ("--methods", "plain,own_last_layer.py")
    assert ctrbench("run", "--dataset", "clicks", *methods, "--backbone", "dnn,squared.py", *small) == 0
    own = ("--metrics", "my_brier.py", "--charts", "gauc_over_auc.py")
    assert ctrbench("report", "--dataset", "clicks", *own, "--bins", "2") == 0
    with (folder / "report" / "overall.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["method"] for row in rows} == {"plain", "own_last_layer"}
    assert {row["backbone"] for row in rows} == {"dnn", "squared"}
    brier = [float(row["mean"]) for row in rows if row["metric"] == "my_brier"]
    assert len(brier) == 4
    assert all(0.0 < value < 0.5 for value in brier)
    svg = (folder / "report" / "gauc-over-auc.svg").read_text(encoding="utf-8")
    assert all(name in svg for name in (">AUC<", ">GAUC<", ">own_last_layer<"))
    assert "<figcaption>GAUC over AUC<" in (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert ctrbench("study", "mine.toml", "--dataset", "clicks", "--seeds", "1", "--jobs", "1") == 0
    table = (folder / "study" / "mine" / "table.md").read_text(encoding="utf-8")
    assert re.search(r"\| (Plain|AdaSparse) \| 0\.\d{3} \|", table)


def test_the_size_of_the_largest_dataset_is_that_of_a_dry_run() -> None:
    forecast = estimate(load_card("production"), generation=GenerationOptions(rows="2.2e9"))
    text = " ".join((GUIDE / "large-data.md").read_text(encoding="utf-8").split())
    match = re.search(r"\*\*Data\*\*: (\d+) GB without sequences \((\d+) bytes per row\)", text)
    assert match is not None
    assert float(match[1]) == pytest.approx(forecast.bytes / 1e9, abs=1)
    assert float(match[2]) == pytest.approx(forecast.bytes_per_row, abs=0.5)
