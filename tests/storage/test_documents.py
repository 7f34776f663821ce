from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.errors import CardError
from ctrbench.storage.documents import MAX_TOML_BYTES, read_json, read_toml

DEEP = 20_000
TEXTS: dict[str, tuple[bytes, str]] = {
    "syntax": (b"name: shop", "at line 1"),
    "not UTF-8": (b'name = "\xff"', "byte 8 is not UTF-8 text"),
    "NUL": (b'name = "a\x00b"', "Illegal character"),
    "deep arrays": (b"x = " + b"[" * DEEP + b"]" * DEEP, "more than 32 levels"),
    "deep inline tables": (b"x = " + b"{a = " * 33 + b"1" + b"}" * 33, "more than 32 levels"),
    "deep dotted key": (b"a." * 100_000 + b"a = 1", "more than 32 levels"),
    "deep quoted key": (b'"a" . ' * 100_000 + b"a = 1", "more than 32 levels"),
    "deep table": (b"[" + b"a." * 100_000 + b"a]", "more than 32 levels"),
    "decimal digits": (b"x = " + b"9" * 10_000, "an integer has too many digits"),
    "hexadecimal digits": (b"x = 0x" + b"f" * 10_000, "40000 bits"),
    "2^63": (b"x = 9223372036854775808", "64 bits"),
    "size": (b"#" * (MAX_TOML_BYTES + 1), "larger than 1,048,576 bytes"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_file_that_is_no_toml_within_the_limits_is_refused(tmp_path: Path, kind: str) -> None:
    text, problem = TEXTS[kind]
    file = tmp_path / "shop.toml"
    file.write_bytes(text)
    with pytest.raises(
        CardError, match=rf"a card must be a valid TOML file: .*shop.toml: .*{problem}"
    ) as info:
        read_toml(file, "card", CardError)
    assert "\n" not in str(info.value)


def test_values_at_the_limits_are_read(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_bytes(b"\xef\xbb\xbfx = 9223372036854775807\r\ny = " + b"[" * 30 + b"]" * 30)
    assert read_toml(file, "card", CardError)["x"] == 2**63 - 1


def make_link_loop(path: Path) -> None:
    path.symlink_to(path)


IRREGULAR: dict[str, Callable[[Path], None]] = {
    "folder": Path.mkdir,
    "named pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link loop": make_link_loop,
}


@pytest.mark.parametrize("kind", IRREGULAR)
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "shop.toml"
    IRREGULAR[kind](file)
    with pytest.raises(CardError, match=r"valid TOML file: .*shop.toml.*correct the path"):
        read_toml(file, "card", CardError)
    with pytest.raises(OSError, match=r"named pipe|directory|symbolic links"):
        read_json(file)


@pytest.mark.parametrize("name", ["a" * 300, "file.txt/below"])
def test_a_path_that_no_file_has_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(CardError, match="valid TOML file"):
        read_toml(tmp_path / name, "card", CardError)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000, "{", "\udcff"])
def test_a_file_that_is_no_json_raises_one_kind_of_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "record.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"nested|digits|Expecting|utf-8"):
        read_json(file)
