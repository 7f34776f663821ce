"""Tables: bytes of CSV files, and columns of other types and values in parquet files."""

from __future__ import annotations

import datetime
import decimal
import io
from pathlib import Path

import polars as pl
from fuzz_judge import Judge
from fuzz_values import cases, mutated_bytes, texts
from fuzz_world import CARD, ROWS, World, make_frame
from hypothesis import given
from hypothesis import strategies as st

from ctrbench.data.card import read_card
from ctrbench.data.home import prepared_names
from ctrbench.data.prepared import open_prepared

FRAME = make_frame()
CSV = FRAME.write_csv().encode()
COLUMNS = {
    "lists": pl.Series([["a"], ["b", "a"]] * 30),
    "empty lists": pl.Series([[]] * ROWS, dtype=pl.List(pl.String)),
    "lists of lists": pl.Series([[["a"]], [["b"]]] * 30),
    "arrays": pl.Series([[1, 2], [3, 4]] * 30, dtype=pl.Array(pl.Int64, 2)),
    "binary": pl.Series([b"\xff", b"\x00"] * 30),
    "structs": pl.Series([{"a": 1}, {"a": 2}] * 30),
    "maps": pl.Series([[{"key": "a", "value": 1}]] * ROWS),
    "decimals": pl.Series([decimal.Decimal("1.5"), decimal.Decimal("2.5")] * 30),
    "dates": pl.Series([datetime.date(2020, 1, 1), datetime.date(9999, 12, 31)] * 30),
    "times": pl.Series([datetime.time(1), datetime.time(2)] * 30),
    "durations": pl.Series([datetime.timedelta(1), datetime.timedelta(-1)] * 30),
    "instants": pl.Series([datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)] * ROWS),
    "booleans": pl.Series([True, False] * 30),
    "nulls": pl.Series([None] * ROWS),
    "some nulls": pl.Series([None, 1, 0] * 20),
    "categories": pl.Series(["a", "b"] * 30, dtype=pl.Categorical),
    "not a number": pl.Series([float("nan"), 1.0] * 30),
    "infinite": pl.Series([float("inf"), -float("inf"), 0.0] * 20),
    "all zero": pl.Series([0] * ROWS),
    "all one": pl.Series([1] * ROWS),
    "large": pl.Series([2**63 - 1, -(2**63)] * 30),
    "unsigned": pl.Series([2**64 - 1, 0] * 30, dtype=pl.UInt64),
    "wide": pl.Series([2**100, 0] * 30, dtype=pl.Int128),
    "texts": pl.Series(["[/bold]", "\x1b[31mx", "", " ", "a\nb", "\x00"] * 10),
    "long": pl.Series(["x" * 70_000, "y"] * 30),
}


def verify_all(_outcome: object) -> None:
    for name in prepared_names():
        open_prepared(name).verify()


def verify_draft(_outcome: object) -> None:
    read_card(Path("draft.toml"))


def use(world: World, judge: Judge, suffix: str, content: bytes, is_draft: bool) -> None:
    with world.case() as folder:
        Path(f"new{suffix}").write_bytes(content)
        if is_draft:
            judge(folder, "card", f"new{suffix}", "--out", "draft.toml", verify=verify_draft, case=content)
            return
        text = Path("tiny.toml").read_text(encoding="utf-8").replace('"tiny', '"new')
        Path("new.toml").write_text(text.replace("new.csv", f"new{suffix}"), encoding="utf-8")
        judge(folder, "prepare", "new.toml", verify=verify_all, case=content)


@cases(20)
@given(
    content=mutated_bytes(CSV),
    suffix=st.sampled_from((".csv", ".csv", ".csv.gz", ".tsv", ".txt")),
    is_draft=st.booleans(),
)
def test_bytes_of_text(world: World, judge: Judge, content: bytes, suffix: str, is_draft: bool) -> None:
    use(world, judge, suffix, content, is_draft)


@cases(8)
@given(values=st.data(), is_draft=st.booleans())
def test_bytes_of_parquet(world: World, judge: Judge, values: st.DataObject, is_draft: bool) -> None:
    original = (world.template / "tiny.parquet").read_bytes()
    use(world, judge, ".parquet", values.draw(mutated_bytes(original)), is_draft)


@cases(16)
@given(
    column=st.sampled_from(FRAME.columns),
    kind=st.sampled_from(list(COLUMNS)),
    name=st.none() | texts,
    rows=st.sampled_from((ROWS, ROWS, ROWS, 0, 1, 2, 5)),
    is_draft=st.booleans(),
)
def test_columns(
    world: World, judge: Judge, column: str, kind: str, name: str | None, rows: int, is_draft: bool
) -> None:
    frame = FRAME.with_columns(COLUMNS[kind].alias(column))
    if name is not None:
        others = [other for other in frame.columns if other != name]
        frame = frame.select(others).rename({others[-1]: name})
    content = io.BytesIO()
    frame.head(rows).write_parquet(content)
    use(world, judge, ".parquet", content.getvalue(), is_draft)


@cases(8)
@given(rows=st.lists(st.lists(texts, min_size=1, max_size=8), min_size=1, max_size=6), is_draft=st.booleans())
def test_cells(world: World, judge: Judge, rows: list[list[str]], is_draft: bool) -> None:
    """Cells of any text below the right header, in rows of any length."""
    lines = [CSV.split(b"\n")[0].decode(), *(",".join(row) for row in rows)]
    assert CARD["path"] == "tiny.csv"
    use(world, judge, ".csv", "\n".join(lines).encode(), is_draft)
