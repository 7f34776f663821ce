from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ctrbench.errors import ContractError, SettingError
from ctrbench.plugins.base import Method
from ctrbench.plugins.registry import (
    PlugKind,
    find,
    group_members,
    plugins,
    select,
    selectors,
    split_selectors,
)

METHOD = '''"""Twice: everything twice.

Paper: Author, Venue, 2020
Year: 2020
"""

from ctrbench.extend import Field, Method, Plan


class Twice(Method):
    """A method without effect."""

    factor: float = Field(default=2.0, gt=0.0)
    widths: tuple[int, ...] = (3,)
    limit: int | None = 5

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan."""
        return plan
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "twice.py"
    path.write_text(METHOD, encoding="utf-8")
    return path


def settings_of(selector: str) -> dict[str, object]:
    return select("methods", selector).value.model_dump(exclude=set(Method.model_fields))


def test_built_in_plugins_are_the_files_of_the_folders() -> None:
    assert {"dnn", "dcnv2"} <= set(plugins("backbones"))
    assert {"plain", "star", "apg", "maml", "adasparse"} <= set(plugins("methods"))
    assert not {name for name in plugins("methods") if name.startswith("_")}


def test_every_built_in_plugin_has_summary_and_tags() -> None:
    for kind in ("methods", "backbones"):
        for plugin in plugins(kind).values():
            assert all((plugin.summary, plugin.tag("Paper"), plugin.tag("Year"))), plugin.name
    for plugin in plugins("methods").values():
        assert all((plugin.tag("Uses"), plugin.tag("Parameters per domain"))), plugin.name


def test_a_path_is_a_plugin(file: Path) -> None:
    plugin = find("methods", str(file))
    assert (plugin.name, plugin.is_builtin) == ("twice", False)
    assert plugin.summary == "Twice: everything twice."
    assert (plugin.tag("Paper"), plugin.tag("Year"), plugin.tag("Code")) == (
        "Author, Venue, 2020",
        "2020",
        "",
    )


def test_listing_imports_neither_plugins_nor_torch() -> None:
    code = (
        "import sys; from ctrbench.plugins.registry import plugins; "
        "[plugin.summary for kind in ('methods', 'backbones') for plugin in plugins(kind).values()]; "
        "print({'torch', 'ctrbench.methods.plain', 'ctrbench.extend'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("[]", {}),
        ("[factor=3]", {"factor": 3.0}),
        ("[ factor = 0.5 , limit=none ]", {"factor": 0.5, "limit": None}),
        ("[widths=4-5-6]", {"widths": (4, 5, 6)}),
        ("[widths=4]", {"widths": (4,)}),
    ],
)
def test_settings_of_a_selector(file: Path, text: str, expected: dict[str, object]) -> None:
    defaults = {"factor": 2.0, "widths": (3,), "limit": 5}
    assert settings_of(f"{file}{text}") == defaults | expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[facto=3]", "no such setting: facto. did you mean 'factor'"),
        ("[factor=-1]", "the setting factor of twice must be greater than 0: -1"),
        ("[factor=many]", "the setting factor of twice must be a valid number: many"),
        ("[factor]", "a setting must have the form name=value"),
        ("[=3]", "a setting must have the form name=value"),
        ("[factor=1,factor=2]", "each setting must be given once"),
        ("[factor=1", "a selector must be name"),
    ],
)
def test_bad_settings_are_refused(file: Path, text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        settings_of(f"{file}{text}")


def test_settings_are_frozen(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        select("methods", str(file)).value.factor = 3.0


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"no such method: adasparce\. did you mean 'adasparse'"):
        select("methods", "adasparce")
    with pytest.raises(SettingError, match=r"no such backbone: dcn\. did you mean 'dcnv2'"):
        select("backbones", "dcn")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"no such file: .*gone\.py"):
        find("methods", str(tmp_path / "gone.py"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", "exactly one subclass of Method: .* defines none"),
        (f"{METHOD}\n\nclass Other(Method):\n    pass\n", r"defines Twice, Other"),
        ("raise KeyError('no')\n", "a plug-in cannot be imported: .*KeyError: 'no'"),
        ("def f(:\n", "a plug-in cannot be imported: .*SyntaxError"),
        (
            "from ctrbench.extend import Backbone\nclass B(Backbone):\n    pass\n",
            "one subclass of Method: .* none",
        ),
    ],
)
def test_a_file_without_a_plugin_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ContractError, match=message):
        find("methods", str(file)).load()


def test_a_file_may_hold_the_base_of_its_method(file: Path) -> None:
    file.write_text(f"{METHOD}\n\nclass Thrice(Twice):\n    factor: float = 3.0\n", encoding="utf-8")
    assert settings_of(str(file))["factor"] == 3.0


def test_a_syntax_error_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("x = 1\ndef f(:\n", encoding="utf-8")
    with pytest.raises(ContractError, match=r"bad\.py, line 2"):
        _ = find("methods", str(file)).summary


def test_an_edited_file_is_loaded_again(file: Path) -> None:
    assert settings_of(str(file))["factor"] == 2.0
    file.write_text(METHOD.replace("default=2.0", "default=7.0"), encoding="utf-8")
    assert settings_of(str(file))["factor"] == 7.0


def test_a_file_is_imported_once(file: Path) -> None:
    assert find("methods", str(file)).load() is find("methods", str(file)).load()


def entry(name: str, module: str) -> EntryPoint:
    return EntryPoint(name=name, value=f"{module}:Any", group="ctrbench.methods")


def test_entry_points_are_plugins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(file.parent)
    points = [entry("doubled", "twice"), entry("plain", "twice"), entry("lost", "gone.away")]
    monkeypatch.setattr("ctrbench.discovery.entry_points", lambda group: points)
    found = plugins("methods")
    assert found["doubled"].file == file
    assert found["plain"].is_builtin
    assert "lost" not in found
    assert settings_of("doubled[factor=4]")["factor"] == 4.0


def test_selectors_are_split_outside_brackets() -> None:
    assert split_selectors("plain, star[norm=none,aux=domain] ,x.py,") == [
        "plain",
        "star[norm=none,aux=domain]",
        "x.py",
    ]


def test_groups_are_expanded_and_each_selector_occurs_once() -> None:
    assert selectors("methods", "star, adasparse-study ,x.py[a=1,b=2],plain") == [
        "star", "plain", "maml", "apg", "adasparse", "x.py[a=1,b=2]",
    ]  # fmt: skip
    assert selectors("methods", "star-study")[0] == "plain[norm=bn,aux=all]"


def test_all_is_every_built_in_plugin_with_its_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(file.parent)
    monkeypatch.setattr("ctrbench.discovery.entry_points", lambda group: [entry("doubled", "twice")])
    for kind in ("methods", "backbones"):
        built_in = [name for name, plugin in plugins(kind).items() if plugin.is_builtin]
        assert selectors(kind, "all") == built_in
    assert "doubled" in plugins("methods")


def test_every_member_of_a_group_can_be_selected() -> None:
    for kind in ("methods", "backbones"):
        for members in group_members(kind).values():
            assert all(select(kind, selector).value for selector in members)


def test_no_plugin_has_the_name_of_a_group(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(file.parent)
    points = [entry("all", "twice"), entry("star-study", "twice")]
    monkeypatch.setattr("ctrbench.discovery.entry_points", lambda group: points)
    for kind in ("methods", "backbones"):
        assert not set(plugins(kind)) & set(group_members(kind))
    with pytest.raises(SettingError, match=r"a plug-in file must not have the name of a group: .*all\.py"):
        find("methods", str(file.rename(file.with_name("all.py"))))


def test_a_group_takes_no_settings_and_is_suggested() -> None:
    with pytest.raises(
        SettingError, match="one method or backbone must be named here, not a group: star-study"
    ):
        select("methods", *selectors("methods", "star-study[norm=bn]"))
    with pytest.raises(SettingError, match=r"no such method: star-studdy\. did you mean 'star-study'"):
        select("methods", "star-studdy")


def test_a_label_is_the_selector_in_short(file: Path) -> None:
    assert select("methods", f"{file}[ factor = 3 , widths=4-5,limit=none]").label == (
        "twice[factor=3,widths=4-5,limit=none]"
    )
    assert select("methods", "plain").label == "plain"


def test_a_tag_ends_at_the_next_tag_or_a_blank_line(file: Path) -> None:
    text = METHOD.replace(
        "Year: 2020\n", "Year: 2020\nUses: one\nand two\nParameters per domain: w:\n all\n\nNo\n"
    )
    file.write_text(text, encoding="utf-8")
    plugin = find("methods", str(file))
    assert (plugin.tag("Paper"), plugin.tag("Uses"), plugin.tag("Parameters per domain")) == (
        "Author, Venue, 2020", "one and two", "w: all",
    )  # fmt: skip


def test_the_digest_is_that_of_the_file(file: Path) -> None:
    before = find("methods", str(file)).sha256
    file.write_text(METHOD + "\n", encoding="utf-8")
    assert find("methods", str(file)).sha256 != before


@pytest.mark.parametrize("text", ["", ",", " , "])
@pytest.mark.parametrize("kind", ["methods", "backbones"])
def test_a_list_without_a_name_is_refused(kind: PlugKind, text: str) -> None:
    with pytest.raises(SettingError, match=f"no {kind.removesuffix('s')} is named"):
        selectors(kind, text)
