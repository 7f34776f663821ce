"""The pages about methods repeat what the files of the methods say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from ctrbench.plugins.pages import _body, _escaped, _of_type, methods_page
from ctrbench.plugins.registry import plugins, select

ROOT = Path(__file__).parents[2]


def test_the_pages_are_what_is_generated() -> None:
    """Otherwise: make docs."""
    assert (ROOT / "docs/methods.md").read_text(encoding="utf-8") == methods_page()


def test_every_plugin_and_every_setting_is_there() -> None:
    page = methods_page()
    for kind in ("methods", "backbones"):
        for name in plugins(kind):
            section = page.partition(f"\n### `{name}`\n")[2].partition("\n### ")[0]
            assert plugins(kind)[name].tag("Paper")[:12] in section, name
            own = set(type(select(kind, name).value).model_fields) - {
                "norm",
                "aux",
                "hidden",
                "activation",
                "pooling",
                "pooling_aux",
            }
            assert [setting for setting in own if f"| `{setting}` |" not in section] == [], name


def test_a_setting_shows_values_default_and_meaning() -> None:
    page = methods_page()
    assert "| `rank` | list: whole number ≥ 1 | `16` | K, one for all hidden layers or one per layer;" in page
    assert "| `r_min` | number ≥ 0 and < 1 | `0.15` |" in page


def test_a_meaning_is_that_of_the_setting_not_of_a_namesake() -> None:
    """AdaptDHM has a tensor called `routing` beside the setting."""
    section = methods_page().partition("### `adaptdhm`")[2]
    assert "| `routing` | `spherical`, `published` | `spherical` | Update of the centres" in section


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (bool, "`true` or `false`"),
        (int | None, "whole number, or `none`"),
        (Annotated[float, Field(gt=0.0, le=0.5)], "number > 0 and ≤ 0.5"),
        (tuple[Annotated[int, Field(ge=1)], ...], "list: whole number ≥ 1"),
        (Annotated[int, Field(ge=1)] | None, "whole number ≥ 1, or `none`"),
        (Literal["a", "b"] | None, "`a`, `b`, or `none`"),
        (Literal["linear"] | tuple[float, float], "`linear`, list: number"),
    ],
)
def test_types_in_words(kind: object, words: str) -> None:
    assert _of_type(kind, ()) == words


def test_formulas_keep_their_form_and_sentences_lose_their_line_ends() -> None:
    tags = "Paper: A,\nB\nYear: 1\nUses: p\n"
    text = f"One: two.\n\n{tags}\nAt\nwork:\n\n    a_p* = b\n      <c>\n\n    d\nand\nso *on*.\n"
    assert list(_body(text)) == ["At work:\n", "    a_p* = b\n      <c>\n", "    d\n", "and so \\*on\\*.\n"]


def test_only_what_markdown_would_read_is_escaped() -> None:
    assert _escaped("W_p* = |a| <b, c> `x*_y` [e_d ; z](1) _n") == (
        "W_p\\* = \\|a\\| \\<b, c> `x*_y` [e_d ; z\\](1) \\_n"
    )
