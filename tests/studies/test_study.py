"""Studies: their files, their runs, and what they draw, from a tiny dataset to tables and pictures."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctrbench.data.card import DatasetCard, bundled_cards, load_card
from ctrbench.data.prepared import open_prepared
from ctrbench.errors import SettingError
from ctrbench.eval.stored import DomainMetrics
from ctrbench.plugins.registry import select
from ctrbench.runs.grid import Run
from ctrbench.runs.store import RunStore
from ctrbench.studies.plan import make_experiment, plan_study
from ctrbench.studies.study import bundled_studies, load_study, nested_sets, read_study

BODY = """
title = "Tiny"
source = "A paper, Table 9"
note = "Smaller than the paper's."
draw = "{draw}"
backbones = ["dnn[hidden=8-4]"]
domain_sets = [{sets}]
seeds = 2
train = {{ epochs = 1, batch_size = 64, embedding_size = 4 }}

[methods]
"The backbone" = "plain"
AdaSparse = "adasparse[alpha_start=5,epsilon=0.98,r_min={r_min}]"
"""


@pytest.fixture
def place(
    tmp_path: Path,
    ctrbench: Callable[..., int],
    write_tiny: Callable[..., DatasetCard],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with tiny prepared data, and a home of its own."""
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    generator, rows = np.random.default_rng(0), 1800
    shop = generator.choice(["s1", "s2", "s3"], rows, p=[0.6, 0.3, 0.1])
    columns = {
        "time": np.arange(rows),
        "shop": shop,
        "age": generator.choice(["young", "old"], rows),
        "item": generator.integers(0, 30, rows),
        "click": (generator.random(rows) < np.where(shop == "s1", 0.7, 0.3)).astype(int),
    }
    write_tiny(tmp_path, columns, 'default = ["shop", "age"], shop = ["shop"]')
    assert ctrbench("prepare", "tiny.toml") == 0
    return tmp_path


@pytest.fixture
def write(place: Path) -> Callable[..., Path]:
    """Write a study file."""

    def write(draw: str = "table", sets: str = '"default"', r_min: float = 0.15) -> Path:
        file = place / f"{draw}.toml"
        file.write_text(BODY.format(draw=draw, sets=sets, r_min=r_min), encoding="utf-8")
        return file

    return write


@pytest.mark.parametrize("name", bundled_studies())
def test_bundled_studies_name_existing_methods_and_backbones(name: str) -> None:
    study = load_study(name)
    assert study.source
    for selector in study.methods.values():
        _ = select("methods", selector).value
    for selector in study.backbones:
        _ = select("backbones", selector).value


def test_the_studies_of_both_papers_are_bundled() -> None:
    adasparse = {f"adasparse/{name}" for name in ("table1", "table2", "fig3a", "fig3b", "fig3c", "fig3d")}
    star = {f"star/{name}" for name in ("table2", "table3", "table4", "fig6", "fig7")}
    assert set(bundled_studies()) == adasparse | star


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "title = 3",
            r"has 3 problems\n  - missing key: draw\n  - missing key: methods\n  - title must be a valid string: 3",
        ),
        ("title = ", "a study must be a valid TOML file"),
        ("x = " + "[" * 20_000, "a study must be a valid TOML file.*nested"),
        ("x = " + "9" * 10_000, "a study must be a valid TOML file.*too many digits"),
        ('title = "a"\ndraw = "pie"\nmethods = { a = "plain" }', "no such drawing: pie in .*my.toml"),
        ('title = "a"\ndraw = "table"\nmethods = {}', "methods must have at least 1"),
        ('title = "a"\ndraw = "bins"\nmethods = { a = "star" }', "gains over plain"),
        (
            'title = "a"\ndraw = "pcoc"\nby_user = true\nmethods = { a = "star" }',
            "no such key of a study, and no option of draw = 'pcoc': by_user in .*my.toml",
        ),
        (
            'title = "a"\ndraw = "table"\nmethods = { a = "star" }\ndomain_sets = ["nested", "default"]',
            "nested cannot be combined",
        ),
        ('title = "a"\ndraw = "table"\nmethod = { a = "star" }', "method"),
    ],
)
def test_an_invalid_study_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "my.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=message):
        read_study(tmp_path / "my.toml")


def test_an_unknown_study_is_refused_with_a_suggestion() -> None:
    with pytest.raises(SettingError, match="did you mean 'adasparse/table1'"):
        load_study("adasparse/tabel1")
    with pytest.raises(SettingError, match="no such study"):
        load_study("nowhere.toml")


def test_nested_sets_are_the_longest_chain() -> None:
    sets = {
        "default": ("a", "b", "c"),
        "a": ("a",),
        "bd": ("b", "d"),
        "ab": ("b", "a"),
        "same": ("c", "b", "a"),
        "all": ("a", "b", "c", "d"),
    }
    assert nested_sets(sets) == ("a", "ab", "default", "all")


def test_nested_sets_of_movielens() -> None:
    assert "movielens-1m" in bundled_cards()
    sets = load_card("movielens-1m").domain_sets
    assert nested_sets(sets) == ("age", "age-gender", "default", "age-gender-occupation-zip")


def test_a_study_becomes_runs(write: Callable[..., Path]) -> None:
    study, prepared = read_study(write()), open_prepared("tiny")
    (part,) = plan_study(study, prepared)
    assert [(run.key.method.name, run.key.seed) for run in part.runs] == [
        ("plain", 1), ("adasparse", 1), ("plain", 2), ("adasparse", 2),
    ]  # fmt: skip
    assert list(part.labels.values()) == ["The backbone", "AdaSparse"]
    assert part.runs[0].key.train["epochs"] == 1
    (other,) = plan_study(study, prepared, seeds="7,")
    assert {run.key.seed for run in other.runs} == {7}


def test_the_representative_feature_makes_a_set_of_its_own(write: Callable[..., Path]) -> None:
    (part,) = plan_study(read_study(write(sets='"representative"')), open_prepared("tiny"))
    assert part.runs[0].key.domain_features == ("shop",)
    assert part.runs[0].key.indicator == "shop"


def test_a_study_that_does_not_fit_the_data_is_refused(place: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(SettingError, match="no such domain set: where"):
        plan_study(read_study(write(sets='"where"')), open_prepared("tiny"))
    file = write()
    file.write_text(file.read_text().replace("epochs", "epoch"), encoding="utf-8")
    with pytest.raises(SettingError, match="no such training setting: epoch"):
        plan_study(read_study(file), open_prepared("tiny"))
    file.write_text(file.read_text().replace("epoch =", "epochs =") + 'Same = "plain"\n', encoding="utf-8")
    with pytest.raises(SettingError, match="a study must list each method once: The backbone, Same"):
        plan_study(read_study(file), open_prepared("tiny"))


PICTURES = {
    "table": {"auc.svg", "gauc.svg"},
    "bins": {"gain-auc.svg", "gain-gauc.svg"},
    "domains": {"auc.svg"},
    "pcoc": {"pcoc.svg"},
    "domain_sets": {"gain-auc.svg", "gain-gauc.svg"},
    "sparsity": {"sparsity.svg"},
    "masks": {"masks.svg"},
}


def domains_of(store: RunStore, run: Run) -> DomainMetrics:
    record = store.find(run.key)
    assert record is not None
    assert record.result is not None
    return record.result.domains


def test_calibration_is_drawn_for_domains_with_enough_clicks(
    place: Path, write: Callable[..., Path], ctrbench: Callable[..., int]
) -> None:
    file = write("pcoc")
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('draw = "pcoc"', 'draw = "pcoc"\nmin_positives = 40'), encoding="utf-8")
    assert ctrbench("study", file.name, "--dataset", "tiny", "--jobs", "1", "--seeds", "1") == 0
    (part,) = plan_study(read_study(file), open_prepared("tiny"), seeds="1")
    store = RunStore(results=place / "results", home=place / "home")
    domains = domains_of(store, part.runs[0])
    enough = sum(positives >= 40 for positives in domains.positives)
    assert 0 < enough < sum(rows > 0 for rows in domains.rows)
    with (place / "study" / "pcoc" / "data.csv").open(encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == 2 * enough
    assert (
        f"shows the {enough} domains with at least 40 clicks"
        in (place / "study" / "pcoc" / "table.md").read_text()
    )
    assert (place / "study" / "pcoc" / "pcoc.svg").exists()


@pytest.mark.parametrize("draw", PICTURES)
def test_every_drawing_from_runs_to_files(
    place: Path,
    write: Callable[..., Path],
    ctrbench: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    draw: str,
) -> None:
    file = write(draw, '"nested"' if draw == "domain_sets" else '"default"')
    arguments = ("study", file.name, "--dataset", "tiny", "--jobs", "1", "--out", "out", "--seeds", "1")
    assert ctrbench(*arguments) == 0
    shown = capsys.readouterr()
    assert "AdaSparse" in shown.out
    assert "After A paper, Table 9. Smaller than the paper's." in " ".join(shown.out.split())
    pictures = {file.name for file in (place / "out" / draw).glob("*.svg")}
    # No domain of the tiny test split has 100 clicks, which `pcoc` requires by default.
    assert pictures >= (set() if draw == "pcoc" else PICTURES[draw])
    assert draw != "pcoc" or not pictures
    assert (place / "out" / draw / "table.md").read_text().startswith("### Tiny · ")
    # Again: nothing is left to do, and the files come out the same.
    before = {one.name: one.read_bytes() for one in (place / "out" / draw).iterdir()}
    assert ctrbench(*arguments) == 0
    assert "0 to run" in capsys.readouterr().err
    assert {one.name: one.read_bytes() for one in (place / "out" / draw).iterdir()} == before


def test_runs_without_an_inspection_are_repeated_and_their_records_kept(
    place: Path, write: Callable[..., Path], ctrbench: Callable[..., int]
) -> None:
    file = write("masks")
    assert ctrbench("study", file.name, "--dataset", "tiny", "--jobs", "1", "--seeds", "1") == 0
    study, store = read_study(file), RunStore(results=place / "results", home=place / "home")
    parts = plan_study(study, open_prepared("tiny"), seeds="1")
    gated = parts[0].runs[1]
    record = store.record_file(gated.key).read_bytes()
    store.inspection_file(gated.key).unlink()
    missing = make_experiment(study, parts, store).missing
    assert [run.key.digest for run in missing] == [gated.key.digest]
    assert ctrbench("study", file.name, "--dataset", "tiny", "--jobs", "1", "--seeds", "1") == 0
    assert store.inspection_file(gated.key).exists()
    assert store.record_file(gated.key).read_bytes() == record


def test_an_inspection_of_another_model_than_the_record_is_noted(
    place: Path, write: Callable[..., Path], ctrbench: Callable[..., int]
) -> None:
    file = write("masks")
    arguments = ("study", file.name, "--dataset", "tiny", "--jobs", "1", "--seeds", "1")
    assert ctrbench(*arguments) == 0
    table = place / "study" / "masks" / "table.md"
    assert "repetition" not in table.read_text()
    store = RunStore(results=place / "results", home=place / "home")
    (part,) = plan_study(read_study(file), open_prepared("tiny"), seeds="1")
    shown = store.inspection(part.runs[1].key)
    assert shown is not None
    np.savez(store.inspection_file(part.runs[1].key), **replace(shown, predictions="another").arrays())
    assert ctrbench(*arguments) == 0
    assert "AdaSparse: inspected in a repetition of the run" in table.read_text()


def test_a_study_without_a_supported_pair_is_refused(
    place: Path, write: Callable[..., Path], ctrbench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write("domains")
    text = file.read_text().replace("dnn[hidden=8-4]", "dcnv2").split("[methods]")[0]
    file.write_text(text + '[methods]\nTrees = "gbdt"\n', encoding="utf-8")
    assert ctrbench("study", file.name, "--dataset", "tiny", "--jobs", "1", "--seeds", "1") == 2
    assert "a method of a study must support one of its backbones" in capsys.readouterr().err


def test_the_pruned_shares_are_those_of_the_model(
    place: Path, write: Callable[..., Path], ctrbench: Callable[..., int]
) -> None:
    file = write("sparsity")
    assert ctrbench("study", file.name, "--dataset", "tiny", "--jobs", "1", "--seeds", "1") == 0
    store = RunStore(results=place / "results", home=place / "home")
    (part,) = plan_study(read_study(file), open_prepared("tiny"), seeds="1")
    shown = store.inspection(part.runs[1].key)
    domains = domains_of(store, part.runs[1])
    rows = dict(zip(domains.domain, domains.rows, strict=True))
    assert shown is not None
    assert shown.rows_D.tolist() == [rows[domain] for domain in shown.domain_D.tolist()]
    widths = {site.stage: site.kept_DN.shape[1] for site in shown.sites}
    assert widths == {"tower0": 12, "tower1": 8, "head": 4}
    pruned = sum(float((1.0 - site.kept_DN).sum(1) @ shown.rows_D) for site in shown.sites) / (
        24 * shown.rows_D.sum()
    )
    with (place / "study" / "sparsity" / "data.csv").open(encoding="utf-8") as stream:
        (line,) = csv.DictReader(stream)
    assert float(line["pruned"]) == pytest.approx(pruned)
    assert 0.0 < pruned < 1.0


def test_an_unknown_study_ends_with_code_2(place: Path, ctrbench: Callable[..., int]) -> None:
    assert ctrbench("study", "adasparse/table9", "--dataset", "tiny") == 2


DRAWING = '''
"""The best method per domain set."""

from ctrbench.report.table import Cell, Line, Table
from ctrbench.studies.drawing import Drawing, Drawn


class Best(Drawing):
    digits: int = 4

    def draw(self, parts, *, store):
        lines = []
        for part in parts:
            means = {row.method: max(row.values("auc").values()) for row in part.comparison.rows}
            best = max(means, key=means.get)
            cells = (Cell(text=best), Cell(text=f"{means[best]:.{self.digits}f}"))
            lines.append(Line(kind="method", label=part.comparison.title, cells=cells))
        columns = ("method", "AUC")
        return Drawn(tables=(Table(name="best", title="Best", columns=columns, lines=tuple(lines)),))
'''


def test_a_drawing_is_one_file_beside_the_study(
    place: Path, write: Callable[..., Path], ctrbench: Callable[..., int]
) -> None:
    (place / "best.py").write_text(DRAWING, encoding="utf-8")
    file = write("best.py")
    text = file.read_text(encoding="utf-8")
    study = place / "mine.toml"
    study.write_text(text.replace("[methods]", "digits = 2\n[methods]", 1), encoding="utf-8")
    assert "digits = 2" in study.read_text()
    assert ctrbench("study", "mine.toml", "--dataset", "tiny", "--jobs", "1", "--seeds", "1") == 0
    table = (place / "study" / "mine" / "table.md").read_text(encoding="utf-8")
    assert "| method | AUC |" in table.replace("  ", " ")
    study.write_text(text.replace("[methods]", "digit = 2\n[methods]", 1), encoding="utf-8")
    with pytest.raises(SettingError, match=r"no such key of a study, .*: digit in .*did you mean 'digits'"):
        read_study(study)
