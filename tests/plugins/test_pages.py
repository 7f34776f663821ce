"""The pages about methods and backbones agree with the files of methods and backbones."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from ctrbench.errors import ContractError
from ctrbench.plugins import markdown, pages
from ctrbench.plugins.base import Method
from ctrbench.plugins.registry import PlugKind, plugins, select

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages link the specification below the current folder."""
    monkeypatch.chdir(ROOT)


BUILT_IN: list[tuple[PlugKind, str]] = [
    (kind, name) for kind in pages.KINDS for name, plugin in plugins(kind).items() if plugin.is_builtin
]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return pages.pages()


def page(made: dict[str, str], kind: PlugKind, name: str) -> str:
    return made[f"{name}.md" if kind == "methods" else f"backbones/{name}.md"]


def test_the_committed_pages_are_the_generated_ones(made: dict[str, str]) -> None:
    """After a change of a method: make docs. A new method has no page until then."""
    folder = ROOT / pages.FOLDER
    committed = {
        file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in folder.rglob("*.md")
    }
    new = [path for path in made if path not in committed]
    expected = {path: made[path] for path in made if path not in new}
    expected["index.md"] = without_links_to(new, made["index.md"])
    assert committed == expected


def without_links_to(paths: list[str], text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not any(f"]({path})" in line for path in paths))


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_a_page_has_tags_plan_settings_and_a_link_to_the_specification(
    made: dict[str, str], kind: PlugKind, name: str
) -> None:
    text, plugin = page(made, kind, name), plugins(kind)[name]
    assert f"| Paper | {plugin.tag('Paper')[:12]}" in text
    assert ("## Plan edit\n" if kind == "methods" else "## Plan\n") in text
    assert "specification/" in text
    fields = type(select(kind, name).value).model_fields
    own = set(fields) - set(pages.BASES[kind].model_fields)
    assert [setting for setting in own if f"| `{setting}` |" not in text] == []


def test_the_index_links_every_page(made: dict[str, str]) -> None:
    links = {path for path in made if path != "index.md"}
    assert [path for path in links if f"]({path})" not in made["index.md"]] == []


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_relative_links_resolve(made: dict[str, str], kind: PlugKind, name: str) -> None:
    folder = (ROOT / pages.FOLDER / ("" if kind == "methods" else "backbones")).resolve()
    targets = [part.partition(")")[0].partition("#")[0] for part in page(made, kind, name).split("](")[1:]]
    assert [
        target for target in targets if not target.startswith("http") and not (folder / target).exists()
    ] == []


def test_a_setting_has_values_default_and_meaning(made: dict[str, str]) -> None:
    assert (
        "| `rank` | list: integer ≥ 1 and ≤ 65,536 | `16` | 4, 8, 16, 32 | K, one for all hidden layers"
        in made["apg.md"]
    )
    assert "| `r_min` | number ≥ 0 and < 1 | `0.15` | – | Lower end of the band" in made["adasparse.md"]


def test_a_meaning_belongs_to_the_setting_not_to_another_attribute(made: dict[str, str]) -> None:
    """AdaptDHM has a tensor called `routing` beside the setting."""
    assert (
        "| `routing` | `spherical`, `published` | `spherical` | – | Update of the centers"
        in made["adaptdhm.md"]
    )


class Undocumented(Method):
    """A method with a setting that has no documentation."""

    width: int = 3
    """Documented."""
    depth: int = 2


def test_an_undocumented_setting_is_an_error() -> None:
    with pytest.raises(ContractError, match=r"every setting has a documentation string.*Undocumented: depth"):
        pages.settings_table(Undocumented, Undocumented.model_fields)


def test_stale_pages_are_removed(tmp_path: Path) -> None:
    stale = tmp_path / pages.FOLDER / "gone.md"
    stale.parent.mkdir(parents=True)
    stale.write_text("An old page.", encoding="utf-8")
    pages.write_pages(tmp_path)
    assert not stale.exists()
    assert (tmp_path / pages.FOLDER / "backbones" / "dnn.md").exists()


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "`true` or `false`"),
        (int | None, "integer, or `none`"),
        (Annotated[float, Field(gt=0.0, le=0.5)], "number > 0 and ≤ 0.5"),
        (tuple[Annotated[int, Field(ge=1)], ...], "list: integer ≥ 1"),
        (Annotated[int, Field(ge=1)] | None, "integer ≥ 1, or `none`"),
        (Literal["a", "b"] | None, "`a`, `b`, or `none`"),
        (Literal["linear"] | tuple[float, float], "`linear`, list: number"),
    ],
)
def test_values_in_words(annotation: object, words: str) -> None:
    assert pages.describe_values(annotation, ()) == words


def test_the_example_runs() -> None:
    assert doctest.testmod(pages).failed == 0


DOCSTRING = """One: two.

Paper: A,
B
Year: 1
Uses: p

At
work:

    a_p* = b
      <c>

and so *on* (spec: star-2.2).

Limits: few
words.
"""


def test_a_docstring_is_split_into_introduction_and_sections() -> None:
    introduction, sections = pages.split_docstring(DOCSTRING)
    assert list(markdown.markdown_body(introduction, 1)) == [
        "At work:\n",
        "```text\na_p* = b\n  <c>\n```\n",
        "and so \\*on\\* (specification [star-2.2](../specification/star.md#star-2.2)).\n",
    ]
    assert list(markdown.markdown_body(sections["Limits"], 1)) == ["Few words.\n"]
