"""Commands about plug-ins: list, new-method, check and explain."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from ctrbench.cli.console import PlainConsole
from ctrbench.cli.options_plugins import KINDS
from ctrbench.cli.plugins import LISTINGS

Call = Callable[..., CompletedProcess[str]]
pytestmark = pytest.mark.usefixtures("trained_here")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("datasets", "movielens-1m"),
        ("methods", "adasparse"),
        ("backbones", "dcnv2"),
        ("studies", "adasparse/table1"),
        ("readers", "movielens"),
        ("metrics", "gauc_coverage"),
        ("charts", "gain_by_bin"),
        ("drawings", "domain_sets"),
    ],
)
def test_listings(folder: Path, call: Call, kind: str, name: str) -> None:
    done = call("list", kind)
    assert done.returncode == 0
    assert name in done.stdout


def test_every_kind_has_a_listing() -> None:
    assert tuple(LISTINGS) == KINDS


def test_listings_leave_citations_of_the_specification_out(folder: Path, call: Call) -> None:
    assert "spec:" not in call("list", "metrics").stdout


def test_the_listing_of_datasets_marks_those_prepared(prepared: Path, call: Call) -> None:
    assert re.search(r"tiny .* yes", call("list", "datasets").stdout)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_listing_of_methods_fits(call: Call, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr("ctrbench.cli.console.out", PlainConsole(width=columns))
    shown = call("list", "methods").stdout
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


def test_the_settings_of_a_method_are_listed_with_their_ranges(call: Call) -> None:
    lines = [" ".join(line.split()) for line in call("list", "methods", "apg").stdout.splitlines()]
    assert "rank 16 4, 8, 16, 32" in lines
    assert "core_residual true –" in lines
    assert "lr none 0.0003 to 0.01, logarithmic" in lines
    assert lines.index("settings of apg") < lines.index("settings of every method")
    assert "Tuning also chooses the indicator" in call("list", "methods", "star").stdout


def test_only_methods_are_listed_by_name(call: Call) -> None:
    assert "only methods are listed by name" in call("list", "backbones", "dnn").stderr


def test_a_new_method_passes_the_check_and_trains(prepared: Path, call: Call, train: Call) -> None:
    assert call("new-method", "my_gate").returncode == 0
    # On every backbone: tests/contract/test_check.py.
    assert call("check", "my_gate.py", "--backbone", "dnn").returncode == 0
    assert train("--methods", "my_gate.py").returncode == 0
    (file,) = (prepared / "results" / "tiny").glob("*.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    assert (record["key"]["method"]["name"], record["status"]) == ("my_gate", "finished")
    assert 0.0 < record["result"]["test"]["auc"] < 1.0


def test_a_new_method_overwrites_no_file(folder: Path, call: Call) -> None:
    assert call("new-method", "my_gate").returncode == 0
    done = call("new-method", "my_gate")
    assert done.returncode == 2
    assert "my_gate" in done.stderr


def test_several_methods_are_checked_as_a_matrix(
    prepared: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ctrbench.contract.check.builtin_backbones", lambda: iter(["dnn[hidden=4]", "dcnv2[hidden=4]"])
    )
    done = call("check", "plain,gbdt[max_trees=2]")
    assert done.returncode == 0
    assert "[2/2] gbdt[max_trees=2]" in done.stderr
    assert re.search(r"gbdt\[max_trees=2\] +ok +–", done.stdout)
    done = call("check", "plain,broken.py")
    assert done.returncode == 1
    assert re.search(r" plain +ok +ok ", done.stdout)
    assert re.search(r"broken.py +1! +1!", done.stdout)
    assert "broken.py: finite training: " in done.stdout
    assert done.stdout.count("no such stage") == 1
    done = call("check", "broken.py")
    assert (
        "finite training: Losses and weights stay finite in training.\n  on all 2 backbones: expected"
        in done.stdout
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_explain_shows_both_plans(
    prepared: Path, call: Call, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr("ctrbench.cli.console.out", PlainConsole(width=columns))
    shown = call("explain", "star", "--backbone", "dcnv2", "--indicator", "age").stdout
    assert max(map(len, shown.splitlines())) <= columns
    before, _, after = shown.partition("after: star, parallel")
    assert re.search(r"~ +├─ tower0 +Dense +65 → 128 ", before)
    assert re.search(r"~ +├─ tower0 +StarDense +65 → 128 +8[.,]\d+k? +25[.,]\d+k? ", after)
    assert re.search(r"\+ +└─ star_aux", after)
    assert "age (2)" in " ".join(after.split())


def test_explain_uses_generated_data_where_nothing_is_prepared(folder: Path, call: Call) -> None:
    assert "synthetic data, since no dataset is prepared" in call("explain", "star").stdout


def test_a_method_without_its_abstract_method_is_one_clear_error(folder: Path, call: Call) -> None:
    text = (
        "from ctrbench.extend import Method\n\nclass Half(Method):\n    def apply(self, plan): return plan\n"
    )
    Path("half.py").write_text(text, encoding="utf-8")
    done = call("check", "half.py")
    assert done.returncode == 2
    assert "error: a subclass of Method must define all of its abstract methods: Half in " in done.stderr
    assert "hint: define rewrite()" in done.stderr


BAD = {
    "kind": (("list", "method"), "methods"),
    "method": (("explain", "plane"), "plain"),
    "dataset": (("explain", "star", "--dataset", "tinny"), "tiny"),
    "indicator": (("explain", "star", "--indicator", "price"), "one id per row"),
    "pair": (("explain", "gbdt", "--backbone", "dcnv2"), "gbdt does not support dcnv2"),
    "setting": (("check", "plain,adasparse[form=fussion]"), "fusion"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(
    prepared: Path, call: Call, arguments: tuple[str, ...], message: str
) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_methods_are_listed_on_a_terminal_of_any_width(
    folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1")
    assert call("list", "methods").returncode == 0
