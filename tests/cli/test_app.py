from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from ctrbench.speed.bounds import Roofs

CARD = """
name = "tiny"
title = "A tiny dataset"
path = "tiny.csv"
timestamp = "time"
representative = "shop"
user = "user"
label = {{ column = "click" }}
{extra}

[domain_sets]
default = ["shop", "age"]
shop = ["shop"]

[[fields]]
name = "user"
role = "user"

[[fields]]
name = "shop"
role = "shop"

[[fields]]
name = "age"
role = "user"

[[fields]]
name = "tags"
kind = "multi_valued"

[[fields]]
name = "price"
kind = "numeric"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a card and its data, and a home of its own."""
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    rows = 1800
    shop = generator.choice(["s1", "s2", "s3"], rows, p=[0.6, 0.3, 0.1])
    tags = [";".join(generator.choice(list("abcd"), size)) for size in generator.integers(0, 4, rows)]
    frame = pl.DataFrame(
        {
            "time": np.arange(rows),
            "user": generator.integers(0, 50, rows),
            "shop": shop,
            "age": generator.choice(["young", "old"], rows),
            "tags": [tag.replace(";", "|") for tag in tags],
            "price": generator.random(rows),
            "click": (generator.random(rows) < np.where(shop == "s1", 0.7, 0.3)).astype(int),
        }
    )
    frame.write_csv(tmp_path / "tiny.csv")
    (tmp_path / "tiny.toml").write_text(CARD.format(extra=""), encoding="utf-8")
    return tmp_path


BROKEN = """
from ctrbench.extend import Method, Plan


class Broken(Method):
    def rewrite(self, plan: Plan) -> Plan:
        raise KeyError("no such stage")
"""
RUN = ("run", "--epochs", "1", "--batch-size", "64", "--embedding-size", "4", "--backbone", "dnn[hidden=8-4]")


def test_from_a_csv_to_the_report(
    place: Path, ctrbench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctrbench("prepare", "tiny.toml") == 0
    assert "1,200" in capsys.readouterr().out
    assert ctrbench(*RUN, "--methods", "plain,adasparse[form=scaling]", "--seeds", "2") == 0
    records = sorted((place / "results" / "tiny").glob("*.json"))
    assert len(records) == 4
    before = [record.read_bytes() for record in records]
    assert ctrbench(*RUN, "--methods", "plain,adasparse[form=scaling]", "--seeds", "2") == 0
    assert "4 finished before, 0 to make" in capsys.readouterr().err
    assert [record.read_bytes() for record in records] == before
    assert ctrbench("report", "--bins", "3") == 0
    assert (place / "report").is_dir()
    assert any((place / "report").glob("*.md"))
    assert ctrbench("show", "tiny") == 0


def test_domains_by_any_features(
    place: Path, ctrbench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctrbench("prepare", "tiny.toml", "--domains", "age,user") == 0
    assert ctrbench(*RUN, "--domains", "age,user", "--methods", "plain") == 0
    record = json.loads(next((place / "results" / "tiny").glob("*.json")).read_text(encoding="utf-8"))
    assert record["key"]["domain_features"] == ["age", "user"]


def test_a_failing_plugin_is_recorded_and_the_others_go_on(
    place: Path, ctrbench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctrbench("prepare", "tiny.toml") == 0
    (place / "broken.py").write_text(BROKEN, encoding="utf-8")
    assert ctrbench(*RUN, "--methods", "broken.py,plain") == 1
    records = [json.loads(file.read_text()) for file in (place / "results" / "tiny").glob("*.json")]
    assert {record["key"]["method"]["name"]: record["status"] for record in records} == {
        "broken": "failed",
        "plain": "finished",
    }
    assert any("no such stage" in (record["error"] or "") for record in records)


BAD = [
    (("prepare", "movielens-1n"), "movielens-1m"),
    (("prepare", "missing.toml"), "no such card"),
    ((*RUN, "--methods", "adaspars"), "adasparse"),
    (("run", "--methods", "plain", "--backbone", "dcnv3"), "dcnv2"),
    ((*RUN, "--methods", "adasparse[r_mim=0.1]"), "r_min"),
    ((*RUN, "--methods", "adasparse[form=fussion]"), "fusion"),
    ((*RUN, "--methods", "plain", "--seeds", "x"), "seeds are"),
    ((*RUN, "--methods", "plain", "--seeds", "0"), "at least one"),
    ((*RUN, "--methods", "plain", "--domains", "shopp"), "shop"),
    ((*RUN, "--methods", "plain", "--domains", "price"), "one id per row"),
    ((*RUN, "--methods", "plain", "--dataset", "tinny"), "tiny"),
    ((*RUN, "--methods", "plain", "--optimizer", "sgd"), "adam"),
    ((*RUN, "--methods", "missing.py"), "no such file"),
    (("prepare", "iaac"), "Tianchi"),
    (("list", "method"), "methods"),
    (("show", "tinny"), "tiny"),
    (("report", "--dataset", "tiny"), "ctrbench run"),
    ((*RUN, "--methods", "star-studdy"), "star-study"),
    ((*RUN, "--methods", "all[norm=bn]"), "without settings: all"),
    ((*RUN, "--methods", "plain,cross_stitch[max_domains=2]"), "3 domains. name a domain feature"),
    (("explain", "plane"), "plain"),
    (("explain", "star", "--dataset", "tinny"), "tiny"),
    (("explain", "star", "--indicator", "price"), "one id per row"),
    (("explain", "gbdt", "--backbone", "dcnv2"), "gbdt does not support dcnv2"),
    (("check", "plain,adasparse[form=fussion]"), "fusion"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(bad[0][-3:]) for bad in BAD])
def test_bad_input_is_one_clear_error(
    place: Path,
    ctrbench: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert ctrbench("prepare", "tiny.toml") == 0
    capsys.readouterr()
    assert ctrbench(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (place / "results").exists()


BAD_CARDS = [
    ('colour = "red"', "tiny.csv", "unknown key 'colour'"),
    ("", "no_price.csv", "price"),
    ("", "label.csv", "0"),
    ("split = { by = 'time', parts = [4000, 1, 1] }", "tiny.csv", "empty"),
]


@pytest.mark.parametrize(("extra", "data", "message"), BAD_CARDS, ids=["key", "column", "label", "split"])
def test_a_bad_card_is_one_clear_error(
    place: Path,
    ctrbench: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    extra: str,
    data: str,
    message: str,
) -> None:
    frame = pl.read_csv(place / "tiny.csv")
    frame.drop("price").write_csv(place / "no_price.csv")
    frame.with_columns(pl.col("click") * 2).write_csv(place / "label.csv")
    text = CARD.format(extra=extra).replace("tiny.csv", data)
    (place / "bad.toml").write_text(text, encoding="utf-8")
    assert ctrbench("prepare", "bad.toml") == 2
    assert message in capsys.readouterr().err
    assert not list((place / "home").glob("datasets/*"))
    assert not list((place / "home").glob("datasets/.*"))


def test_a_source_that_is_no_archive(
    place: Path, ctrbench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "round2_train.zip").write_bytes(b"this is no archive")
    assert ctrbench("prepare", "iaac", "--source", "round2_train.zip") == 2
    assert "round2_train.zip" in capsys.readouterr().err


def test_results_of_a_newer_schema(
    place: Path, ctrbench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctrbench("prepare", "tiny.toml") == 0
    assert ctrbench(*RUN, "--methods", "plain") == 0
    record = next((place / "results" / "tiny").glob("*.json"))
    content = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**content, "schema_version": 99}), encoding="utf-8")
    for command in (("report",), (*RUN, "--methods", "plain")):
        assert ctrbench(*command) == 2
        assert "upgrade ctrbench" in capsys.readouterr().err


def test_a_new_method_passes_the_check_and_trains(
    place: Path, ctrbench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctrbench("prepare", "tiny.toml") == 0
    assert ctrbench("new-method", "my_gate") == 0
    assert ctrbench("check", "my_gate.py") == 0
    assert ctrbench(*RUN, "--methods", "my_gate.py") == 0
    assert ctrbench("new-method", "my_gate") == 2
    assert "my_gate" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["datasets", "methods", "backbones"])
def test_listings(
    place: Path, ctrbench: Callable[..., int], capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert ctrbench("list", what) == 0
    expected = {"datasets": "movielens-1m", "methods": "adasparse", "backbones": "dcnv2"}
    assert expected[what] in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
def test_the_listing_of_methods_fits(
    place: Path,
    ctrbench: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: int,
) -> None:
    monkeypatch.setattr("ctrbench.cli.display.console", Console(width=columns))
    assert ctrbench("list", "methods") == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= columns
    assert "Sheng et al., CIKM 2021" in words if columns == 80 else "Sheng et al.," in words
    for text in (
        "uses",
        "parameters per domain",
        "cross_stitch",
        "star-study: plain[norm=bn,aux=all],",
    ):
        assert text in words


def test_the_listing_of_methods_waits_for_no_torch() -> None:
    code = (
        "import sys; from ctrbench.cli import display; display.show_plugins('methods'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_run_says_what_it_costs_before_it_starts(
    place: Path,
    ctrbench: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ctrbench("prepare", "tiny.toml") == 0
    monkeypatch.setattr("ctrbench.cli.display.progress_console", Console(width=120, stderr=True))
    asked = ("--methods", "plain,star[norm=none,aux=none]", "--seeds", "2")
    assert ctrbench(*RUN, *asked) == 0
    shown, _, rest = capsys.readouterr().err.partition("tiny: 4 runs")
    # Four fields of four numbers and the price enter: 17 → 8 → 4 → 1.
    assert re.search(r"plain +dnn\[hidden=8-4\] +\d+ +185 +0 +172 +1\.00 *\n", shown)
    assert re.search(r"star\[norm=none,aux=none\] .* 740 +172 +1\.00 +shop \(3\)", shown)
    assert "star[norm=none,aux=none] × dnn[hidden=8-4], seed 2: AUC" in rest
    assert ctrbench(*RUN, *asked) == 0
    assert "forward" not in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 120])
def test_explain_shows_both_plans(
    place: Path,
    ctrbench: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: int,
) -> None:
    monkeypatch.setattr("ctrbench.cli.display.console", Console(width=columns))
    assert ctrbench("explain", "star") == 0
    assert "synthetic data, since no dataset is prepared" in capsys.readouterr().out
    assert ctrbench("prepare", "tiny.toml") == 0
    capsys.readouterr()
    assert ctrbench("explain", "star", "--backbone", "dcnv2", "--indicator", "age") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    before, _, after = shown.partition("after: star, parallel")
    assert re.search(r"~ +├─ tower0 +Dense +65 → 128 ", before)
    assert re.search(r"~ +├─ tower0 +StarDense +65 → 128 +8[.,]\d+k? +25[.,]\d+k? ", after)
    assert re.search(r"\+ +└─ star_aux", after)
    assert "age (2)" in " ".join(after.split())


def test_several_methods_are_checked_as_a_matrix(
    place: Path,
    ctrbench: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "ctrbench.contract.check._backbones", lambda: iter(["dnn[hidden=4]", "dcnv2[hidden=4]"])
    )
    (place / "broken.py").write_text(BROKEN, encoding="utf-8")
    assert ctrbench("check", "plain,gbdt[max_trees=2]") == 0
    assert re.search(r"gbdt\[max_trees=2\] +ok +–", capsys.readouterr().out)
    assert ctrbench("check", "plain,broken.py") == 1
    shown = capsys.readouterr().out
    assert re.search(r" plain +ok +ok ", shown)
    assert re.search(r"broken.py +1! +1!", shown)
    assert "broken.py × dnn[hidden=4]: " in shown
    assert "no such stage" in shown


BENCH = ("bench", "--rows", "200", "--domains", "3", "--batch-sizes", "64", "--embedding-rows", "500")


def test_bench_prints_and_writes_figures(
    place: Path,
    ctrbench: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    roofs = Roofs(gflops=100.0, gigabytes_per_second=10.0)
    monkeypatch.setattr("ctrbench.speed.bench.measure_roofs", lambda _: roofs)
    asked = ("--methods", "plain,star", "--seconds", "0.01", "--json", "s.json")
    assert ctrbench(*BENCH, *asked) == 0
    captured = capsys.readouterr()
    lines = json.loads((place / "s.json").read_text(encoding="utf-8"))["lines"]
    assert [line["method"] for line in lines] == ["plain", "star"]
    assert all(f"{line['figures']['rows_per_second']:,.0f}" in captured.out for line in lines)
    assert "[2/2] star × dnn, 3 domains, batch 64" in captured.err


def test_bench_of_a_failing_plugin_goes_on_and_ends_with_1(
    place: Path,
    ctrbench: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "ctrbench.speed.bench.measure_roofs", lambda _: Roofs(gflops=1.0, gigabytes_per_second=1.0)
    )
    (place / "broken.py").write_text(BROKEN, encoding="utf-8")
    assert ctrbench(*BENCH, "--methods", "broken.py,plain", "--seconds", "0.01") == 1
    shown = capsys.readouterr().out
    assert "batch 64: KeyError: 'no such stage'" in shown
    assert " plain " in shown


BAD_BENCH = [
    (("--methods", "plane"), "plain"),
    (("--methods", "missing.py"), "no such file"),
    (("--rows", "63"), "too few for one batch"),
    (("--domains", "ten"), "numbers from 1 on"),
    (("--batch-sizes", "0"), "numbers from 1 on"),
    (("--dataset", "tiny"), "--domains shapes the made-up rows"),
    (("--seconds", "0"), "seconds"),
    (("--device", "tpu"), "cuda"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_BENCH, ids=[" ".join(bad[0]) for bad in BAD_BENCH])
def test_bad_input_of_bench_is_one_clear_error(
    place: Path,
    ctrbench: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert ctrbench(*BENCH, *arguments, "--json", "s.json") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (place / "s.json").exists()
