"""Damaged and senseless tables, which drafting a card and preparing a dataset refuse with the same error."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.draft import draft_card
from ctrbench.data.prepare import prepare
from ctrbench.errors import CardError, CtrbenchError

CardOf = Callable[..., DatasetCard]

HEADER = "time,city,device,price,click\n"
FIELDS = [{"name": "city"}, {"name": "device"}, {"name": "price", "kind": "numeric"}]
ROWS = [f"{time},{'ABC'[time % 3]},{'mw'[time % 2]},{time}.5,{(time // 2) % 2}\n" for time in range(1, 61)]
TEXT = HEADER + "".join(ROWS)


def table_of(text: str = TEXT, **columns: pl.Series) -> pl.DataFrame:
    frame = pl.read_csv(io.StringIO(text))
    return frame.with_columns(**columns) if columns else frame


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, row_group_size=20)
    return buffer.getvalue()


def changed_row(number: int, row: str) -> bytes:
    rows = list(ROWS)
    rows[number] = row
    return (HEADER + "".join(rows)).encode()


def with_labels(label: str) -> bytes:
    return (HEADER + "".join(f"{row[:-2]}{label}\n" for row in ROWS)).encode()


def damaged_page() -> bytes:
    content = bytearray(parquet(table_of()))
    content[100:160] = b"\xff" * 60
    return bytes(content)


FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("d.csv", b"", "the file is empty"),
    "header only": ("d.csv", HEADER.encode(), "the data must have rows"),
    "header without line end": ("d.csv", HEADER.strip().encode(), "the data must have rows"),
    "invalid UTF-8 in the header": ("d.csv", b"\xff" + TEXT.encode(), "line 1 is not UTF-8"),
    "invalid UTF-8": ("d.csv", TEXT.encode().replace(b"40,B", b"40,\xff"), "line 41 is not UTF-8"),
    "UTF-16": ("d.csv", TEXT.encode("utf-16"), "line 1 has a NUL byte"),
    "UTF-16 without mark": ("d.csv", TEXT.encode("utf-16-le"), "line 1 has a NUL byte"),
    "NUL": ("d.csv", changed_row(3, "4,A\0,m,1,0\n"), "line 5 has a NUL byte"),
    "NUL bytes at the end": ("d.csv", TEXT.encode() + b"\0" * 4096, "line 62 has a NUL byte"),
    "line ends CR": ("d.csv", TEXT.replace("\n", "\r").encode(), "carriage return without a line feed"),
    "one CR": ("d.csv", changed_row(7, "8,A\r,m,1,0\n"), "line 9 has a carriage return"),
    "a long line": ("d.csv", changed_row(7, "8,A,m,1,0,1\n"), "line 9 has 6 fields, the header has 5"),
    "a short line": ("d.csv", changed_row(7, "8,A,m,1\n"), "line 9 has 4 fields, the header has 5"),
    "a short and a long line": ("d.csv", changed_row(7, "8,A,m,1\n9,A,m,1,0,1\n"), "line 9 has 4 fields"),
    "a long and a short line": ("d.csv", changed_row(50, "8,A,m,1,0,1\n9,A,m,1\n"), "line 52 has 6 fields"),
    "an empty line": ("d.csv", changed_row(7, "\n"), "line 9 has 0 fields"),
    "cut at the end": ("d.csv", TEXT.encode()[:-5], "line 61 has 4 fields"),
    "an open quote": ("d.csv", changed_row(7, '8,"A,m,1,0\n'), "line 61 cannot be parsed"),
    "a quote within a value": ("d.csv", changed_row(7, '8,"A"x,m,1,0\n'), "line 9 cannot be parsed"),
    "duplicate columns": ("d.csv", TEXT.replace("device", "city").encode(), "must have distinct names: .*city twice"),
    "control character in the header": ("d.csv", TEXT.replace("city", "ci\x1bty").encode(), r"column 2 has \\u001b"),
    "long column name": ("d.csv", TEXT.replace("city", "x" * 1001).encode(), "column 2 has 1,001 characters"),
    "damaged gz": ("d.csv.gz", gzip.compress(TEXT.encode())[:-9], "damaged gzip file"),
    "flipped gz": ("d.csv.gz", gzip.compress(TEXT.encode())[:40] + b"\xff" * 20, "damaged gzip file"),
    "no gz": ("d.csv.gz", TEXT.encode(), "damaged gzip file"),
    "cut parquet": ("d.parquet", parquet(table_of())[:-100], "not a parquet file"),
    "empty parquet": ("d.parquet", b"", "not a parquet file"),
    "no parquet": ("d.parquet", TEXT.encode(), "not a parquet file"),
    "damaged page": ("d.parquet", damaged_page(), "unreadable raw data|not a parquet file"),
    "parquet without rows": ("d.parquet", parquet(table_of().head(0)), "the data must have rows"),
    "control character in a parquet column": (
        "d.parquet",
        parquet(table_of().rename({"city": "ci\nty"})),
        r"column 2 has \\u000a",
    ),
    "labels all 0": ("d.csv", with_labels("0"), r"both classes: column 'click': 0 of 60 rows are positive \(0%\)"),
    "labels all 1": ("d.csv", with_labels("1"), r"both classes: column 'click': 60 of 60 rows are positive \(100%\)"),
    "a missing label": ("d.csv", changed_row(7, "8,A,m,1,\n"), "'click' has no value in .*line 9"),
    "other format": ("d.xlsx", b"PK", "must be a text or parquet file"),
}  # fmt: skip


@pytest.fixture(scope="session")
def card_of(card_of: CardOf) -> CardOf:
    """Return the card of a table with these columns; keywords change keys of the card."""
    return partial(card_of, fields=FIELDS)


def refusals(card_of: CardOf, path: Path, home: Path) -> tuple[CtrbenchError, CtrbenchError]:
    """Return the errors of drafting a card and of preparing the data."""
    with pytest.raises(CtrbenchError) as drafting:
        draft_card(path)
    with pytest.raises(CtrbenchError) as preparing:
        prepare(card_of(path), home=home)
    return drafting.value, preparing.value


def test_the_undamaged_table_is_drafted_and_prepared(card_of: CardOf, tmp_path: Path) -> None:
    for name, content in {"d.csv": TEXT.encode(), "d.parquet": parquet(table_of())}.items():
        (tmp_path / name).write_bytes(content)
        assert 'column = "click"' in draft_card(tmp_path / name)
        assert prepare(card_of(tmp_path / name), home=tmp_path / f"home of {name}").manifest.splits


@pytest.mark.parametrize("kind", FILES)
def test_card_and_prepare_refuse_a_table_alike(card_of: CardOf, tmp_path: Path, kind: str) -> None:
    name, content, problem = FILES[kind]
    (tmp_path / name).write_bytes(content)
    drafting, preparing = refusals(card_of, tmp_path / name, tmp_path / "home")
    assert str(drafting) == str(preparing)
    assert type(drafting) is type(preparing)
    with pytest.raises(CtrbenchError, match=problem):
        raise preparing
    assert preparing.remedy
    assert "\n" not in str(preparing)


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_bad_name(path: Path) -> None:
    (path.parent / "d").mkdir()
    (path.parent / "d" / os.fsdecode(b"d\xff.csv")).write_text(TEXT)
    path.symlink_to(path.parent / "d")


IRREGULAR: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: None, "no such data file"),
    "dangling link": (lambda path: path.symlink_to("none"), "no such data file"),
    "link loop": (make_loop, "no such data file"),
    "named pipe": (os.mkfifo, "must be a regular file or a folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "must be a regular file or a folder"),
    "empty folder": (Path.mkdir, "no file"),
    "name that is not UTF-8": (make_bad_name, "must be valid UTF-8"),
}


@pytest.mark.parametrize("kind", IRREGULAR)
def test_card_and_prepare_refuse_what_is_no_file_alike(card_of: CardOf, tmp_path: Path, kind: str) -> None:
    make, problem = IRREGULAR[kind]
    path = tmp_path / "d.csv"
    make(path)
    drafting, preparing = refusals(card_of, path, tmp_path / "home")
    assert str(drafting) == str(preparing)
    with pytest.raises(CtrbenchError, match=problem):
        raise preparing


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (pl.Series([{"a": number} for number in range(60)]), "holds structs"),
        (pl.Series([[{"key": "a", "value": "b"}]] * 60), "holds a list or map of structs"),
        (pl.Series([[["a"], ["b"]]] * 60), "holds lists of List"),
    ],
)
def test_columns_of_other_types_are_omitted_by_card_and_refused_by_prepare(
    card_of: CardOf, tmp_path: Path, values: pl.Series, problem: str
) -> None:
    file = tmp_path / "d.parquet"
    table_of(extra=values).write_parquet(file)
    assert "# omitted: extra: a field cannot hold" in draft_card(file)
    for kind in ("categorical", "multi_valued", "numeric"):
        fields = [{"name": "city"}, {"name": "extra", "kind": kind}]
        card = card_of(file, fields=fields, domain_sets={"default": ["city"]})
        with pytest.raises(CardError, match=rf"'extra' \(field 'extra'\) {problem}"):
            prepare(card, home=tmp_path / "home")
    with pytest.raises(CardError, match=rf"'extra' \(timestamp\) {problem}"):
        prepare(card_of(file, timestamp="extra"), home=tmp_path / "home")


@pytest.mark.parametrize("lists", [[["a"]] * 60, [["a"], ["b"]] * 30, [["a"], ["b", "c"], []] * 20])
def test_list_columns_are_drafted_and_prepared(
    card_of: CardOf, tmp_path: Path, lists: list[list[str]]
) -> None:
    file = tmp_path / "d.parquet"
    table_of(tags=pl.Series(lists)).write_parquet(file)
    assert draft_card(file)
    fields = [{"name": "city"}, {"name": "tags", "kind": "multi_valued"}]
    card = card_of(file, fields=fields, domain_sets={"default": ["city"]})
    assert prepare(card, home=tmp_path / "home").manifest.field("tags").size > 1
    with pytest.raises(CardError, match=r"'tags' \(label.column\) holds lists"):
        prepare(card_of(file, label={"column": "tags"}), home=tmp_path / "home")


def test_binary_columns_are_text_if_they_are_utf_8(card_of: CardOf, tmp_path: Path) -> None:
    file = tmp_path / "d.parquet"
    values = pa.array([b"A", b"B"] * 30, pa.binary())
    pq.write_table(table_of().to_arrow().append_column("code", values), file)
    assert 'name = "code"' in draft_card(file)
    fields = [{"name": "city"}, {"name": "code"}]
    card = card_of(file, fields=fields, domain_sets={"default": ["city"]})
    assert prepare(card, home=tmp_path / "home").vocabulary("code")["value"].to_list() == ["A", "B"]
    pq.write_table(table_of().to_arrow().append_column("code", pa.array([b"\xff"] * 60, pa.binary())), file)
    assert "# omitted: code: a field cannot hold values of the type Binary" in draft_card(file)
    with pytest.raises(CtrbenchError, match=r"unreadable raw data: .*utf-?8"):
        prepare(card, home=tmp_path / "home")


def test_every_split_must_have_both_classes(card_of: CardOf, tmp_path: Path) -> None:
    rows = [f"{time},{'ABC'[time % 3]},m,1,{int(time % 2 and time <= 40)}\n" for time in range(1, 61)]
    file = tmp_path / "d.csv"
    file.write_text(HEADER + "".join(rows))
    with pytest.raises(
        CtrbenchError, match=r"every split .* both classes.*: 0 of 10 rows of dev are positive"
    ):
        prepare(card_of(file), home=tmp_path / "home")


def test_a_byte_order_mark_and_windows_line_ends_are_read(card_of: CardOf, tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert 'column = "click"' in draft_card(file)
    assert prepare(card_of(file), home=tmp_path / "home").manifest.field("city").size == 4


@pytest.mark.parametrize("name", ["d\x1b[31m.csv", "two\nlines.csv", "d\x7f.csv"])
def test_a_file_name_with_a_control_character_is_no_path_of_a_card(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TEXT)
    with pytest.raises(CardError, match="path must not contain control characters"):
        draft_card(tmp_path / name)


def test_a_draft_shows_no_control_characters_of_values(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(TEXT.replace(",A,", ",A\x1b[31m,"))
    assert "\x1b" not in draft_card(tmp_path / "d.csv")


@pytest.mark.parametrize("value", ["1e101", "-1e308", "inf"])
def test_a_number_whose_square_is_not_finite_is_refused(card_of: CardOf, tmp_path: Path, value: str) -> None:
    (tmp_path / "d.csv").write_bytes(changed_row(7, f"8,A,m,{value},0\n"))
    with pytest.raises(CtrbenchError, match=r"must hold finite numbers: .*line 9.*at most 1e\+100"):
        prepare(card_of(tmp_path / "d.csv"), home=tmp_path / "home")


def test_a_number_far_from_those_of_training_is_refused(card_of: CardOf, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(changed_row(59, "60,A,m,1e99,0\n"))
    with pytest.raises(
        CtrbenchError, match=r"within 1e\+30 standard deviations of training: price has 1e\+99"
    ):
        prepare(card_of(tmp_path / "d.csv"), home=tmp_path / "home")
