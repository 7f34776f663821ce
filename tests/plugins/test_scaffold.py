from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ctrbench.errors import SettingError
from ctrbench.nn.stages import Dense
from ctrbench.plugins.registry import find, select
from ctrbench.plugins.scaffold import new_method

PROJECT = Path(__file__).parents[2]


def test_the_file_is_a_method_of_that_name(tmp_path: Path) -> None:
    file = new_method("my_gate", tmp_path / "new")
    plugin = find("methods", str(file))
    assert (file.name, plugin.load().__name__) == ("my_gate.py", "MyGate")
    assert plugin.summary.startswith("My gate:")
    assert all((plugin.tag("Paper"), plugin.tag("Year").isdigit()))


def test_the_method_puts_a_gate_after_each_hidden_layer(tmp_path: Path) -> None:
    method = select("methods", f"{new_method('gate', tmp_path)}[limit=3]").value
    plan = method.apply(select("backbones", "dnn[hidden=8-4]").value.plan())
    assert [stage.name for stage in plan.tower] == ["tower0", "tower0.gate", "tower1", "tower1.gate"]
    assert plan.tower[1].limit == 3.0
    assert isinstance(plan.head[0], Dense)


def test_the_file_passes_ruff(tmp_path: Path) -> None:
    file = new_method("my_method", tmp_path)
    config = ["--config", str(PROJECT / "pyproject.toml")]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *config, str(file)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["stage", "plan", "method", "stage_module", "field", "torch"])
def test_names_of_imported_classes_are_allowed(tmp_path: Path, name: str) -> None:
    assert find("methods", str(new_method(name, tmp_path))).load()().limit == 2.0


@pytest.mark.parametrize("name", ["", "my-gate", "2nd", "class", "a b", "../up", "_hidden"])
def test_names_that_are_not_identifiers_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        SettingError, match="the name of a method must consist of lower-case letters, digits and _"
    ):
        new_method(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["star", "all"])
def test_names_of_built_in_methods_and_groups_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        SettingError, match=f"a new method must not have the name of another method or group: {name}"
    ):
        new_method(name, tmp_path)


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("precious", encoding="utf-8")
    with pytest.raises(SettingError, match=r"must not overwrite a file: .*mine\.py"):
        new_method("mine", tmp_path)
    assert file.read_text(encoding="utf-8") == "precious"


def test_only_one_file_is_written(tmp_path: Path) -> None:
    file = new_method("mine", tmp_path)
    assert list(tmp_path.iterdir()) == [file]
