from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ctrbench.discovery import PluginKind, available_plugins, builtin_plugins, find
from ctrbench.errors import ContractError, SettingError

BASE = """class Shape:
    pass
"""
SHAPE = '''"""Square: four equal sides."""

from shapes.base import Shape


class Square(Shape):
    sides = 4
'''


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PluginKind[object]:
    """A kind whose package lies in a temporary folder."""
    folder = tmp_path / "package" / "shapes"
    folder.mkdir(parents=True)
    for name, text in {"__init__": "", "base": BASE, "square": SHAPE, "_draft": SHAPE}.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr("ctrbench.discovery.PACKAGE_ROOT", folder.parent)
    return PluginKind(name="shapes", package="ctrbench.shapes", base="shapes.base:Shape", helpers=("base",))


def test_built_in_plugins_are_the_files_of_the_package_except_helpers(kind: PluginKind[object]) -> None:
    assert list(builtin_plugins(kind)) == ["square"]
    assert find(kind, "square").is_builtin
    assert find(kind, "square").summary == "Square: four equal sides."


def test_a_path_is_loaded_as_a_plugin_of_any_kind(kind: PluginKind[object], tmp_path: Path) -> None:
    file = tmp_path / "triangle.py"
    file.write_text(SHAPE.replace("Square", "Triangle").replace("4", "3"), encoding="utf-8")
    assert vars(kind.load(str(file)))["sides"] == 3


def test_an_entry_point_is_loaded_as_a_plugin_of_any_kind(
    kind: PluginKind[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside.py").write_text(SHAPE.replace("4", "5"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    points = {"ctrbench.shapes": [EntryPoint(name="pentagon", value="outside", group="ctrbench.shapes")]}
    monkeypatch.setattr("ctrbench.discovery.entry_points", lambda group: points[group])
    assert list(available_plugins(kind)) == ["square", "pentagon"]
    assert list(available_plugins(kind, reserved=["pentagon"])) == ["square"]
    assert vars(kind.load("pentagon"))["sides"] == 5


def test_a_file_with_two_plugins_is_refused(kind: PluginKind[object], tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text(f"{SHAPE}\n\nclass Circle(Shape):\n    pass\n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"exactly one subclass of Shape: .* defines Square, Circle"):
        kind.load(str(file))


def test_an_unknown_name_is_refused_with_the_nearest(kind: PluginKind[object]) -> None:
    with pytest.raises(SettingError, match=r"no such shape: sqare\. did you mean 'square'"):
        find(kind, "sqare")
