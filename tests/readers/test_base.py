"""Readers as plug-ins: built-in files, paths and entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ctrbench.data.card import read_card
from ctrbench.data.prepare import prepare
from ctrbench.discovery import builtin_plugins, find
from ctrbench.errors import CardError
from ctrbench.names import Split
from ctrbench.readers.base import READERS, Reader

READER = '''"""Reader of JSON lines."""

import polars as pl

from ctrbench.readers.base import RawData, Reader, ReadRequest


class JsonLinesReader(Reader):
    def read(self, request: ReadRequest) -> RawData:
        return RawData(frame=pl.scan_ndjson(list(request.paths)), files=request.paths)
'''
CARD = """
name = "shop"
title = "A shop"
path = "shop.jsonl"
reader = "{reader}"
representative = "city"
label = {{ column = "click" }}
domain_sets = {{ default = ["city"] }}
fields = [{{ name = "city" }}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a raw file and a reader, but no card."""
    lines = [f'{{"city": "{"AB"[i % 2]}", "click": {i % 3 == 0:d}}}' for i in range(60)]
    (tmp_path / "shop.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "json_lines.py").write_text(READER, encoding="utf-8")
    return tmp_path


def write_card(folder: Path, reader: str) -> Path:
    file = folder / "shop.toml"
    file.write_text(CARD.format(reader=reader), encoding="utf-8")
    return file


def test_built_in_readers_are_the_files_of_the_package() -> None:
    assert {"iaac", "movielens", "table"} <= set(builtin_plugins(READERS))
    assert not {"base", "text_files"} & set(builtin_plugins(READERS))


@pytest.mark.parametrize("name", builtin_plugins(READERS))
def test_every_built_in_reader_loads(name: str) -> None:
    assert isinstance(find(READERS, name).load()(), Reader)


@pytest.mark.parametrize(("name", "expected"), [("iaac", False), ("movielens", False), ("table", True)])
def test_readers_of_text_tables_use_a_separator(name: str, expected: bool) -> None:
    assert find(READERS, name).load().uses_separator is expected


def test_a_card_may_name_a_reader_by_its_path(folder: Path) -> None:
    prepared = prepare(read_card(write_card(folder, "json_lines.py")), home=folder / "home")
    assert sum(part.rows for part in prepared.manifest.splits.values()) == 60
    assert prepared.vocabulary("city")["value"].sort().to_list() == ["A", "B"]
    assert set(prepared.read(Split.TRAIN, ["label"])["label"].to_pylist()) == {0, 1}


def test_a_card_may_name_an_installed_reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    point = EntryPoint(name="jsonl", value="json_lines", group="ctrbench.readers")
    monkeypatch.setattr("ctrbench.discovery.entry_points", lambda group: [point] * (group == point.group))
    prepared = prepare(read_card(write_card(folder, "jsonl")), home=folder / "home")
    assert sum(part.rows for part in prepared.manifest.splits.values()) == 60


def test_the_digest_of_a_card_changes_with_its_reader_but_not_with_the_location(folder: Path) -> None:
    digest = read_card(write_card(folder, "json_lines.py")).digest
    (folder / "elsewhere").mkdir()
    (folder / "json_lines.py").rename(folder / "elsewhere" / "json_lines.py")
    moved = write_card(folder, "elsewhere/json_lines.py")
    assert read_card(moved).digest == digest
    (folder / "elsewhere" / "json_lines.py").write_text(READER + "# changed\n", encoding="utf-8")
    assert read_card(moved).digest != digest


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("tabel", r"no such reader: tabel in .*\.toml\. did you mean 'table'"),
        ("none.py", r"no such file: .*none\.py"),
    ],
)
def test_an_unknown_reader_is_refused(folder: Path, reader: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        read_card(write_card(folder, reader))
