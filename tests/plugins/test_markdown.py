from __future__ import annotations

from ctrbench.plugins.markdown import escape


def test_only_signs_that_markdown_interprets_are_escaped() -> None:
    assert escape("W_p* = |a| <b, c> `x*_y` [e_d ; z](1) _n") == (
        "W_p\\* = \\|a\\| \\<b, c> `x*_y` [e_d ; z\\](1) \\_n"
    )
