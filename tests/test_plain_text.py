from __future__ import annotations

import unicodedata

import pytest

from ctrbench.plain_text import file_name, one_line, printable

CONTROLS = [character for character in map(chr, range(256)) if unicodedata.category(character) == "Cc"]


@pytest.mark.parametrize("character", [*CONTROLS, "\u202e", "\u2028", "\udc80", "\uffff"])
def test_one_line_has_no_character_that_moves_the_cursor_or_that_xml_forbids(character: str) -> None:
    shown = one_line(f"a{character}b")
    assert character not in shown
    assert shown == f"a{character.encode('unicode_escape').decode()}b"


def test_printable_text_keeps_lines_and_tabs() -> None:
    assert printable("a\n\tb\x1b[31m") == "a\n\tb\\x1b[31m"


def test_ordinary_text_is_unchanged() -> None:
    text = "[bold] Ünïcode – 日本 🙂 |`*"
    assert one_line(text) == printable(text) == text


def test_the_name_of_a_file_has_no_separator_and_no_control_character() -> None:
    assert file_name("a/b\\c\nd\x00") == "a_b_c_d_"
    assert file_name("plain-dnn-s1-a78c") == "plain-dnn-s1-a78c"
