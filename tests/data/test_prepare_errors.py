"""Cards and raw files that `prepare` refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ctrbench.data.card import DatasetCard, read_card
from ctrbench.data.prepare import prepare
from ctrbench.errors import CardError, CtrbenchError, DataError, SettingError, SourceError

MakeCard = Callable[..., DatasetCard]


def is_empty(home: Path) -> bool:
    return [path for path in (home / "datasets").iterdir() if path.suffix != ".lock"] == []


def test_a_card_without_data_is_refused_with_a_remedy(card: DatasetCard, home: Path) -> None:
    with pytest.raises(CardError, match=r"the card has no data: shop.*--source PATH"):
        prepare(card.model_copy(update={"path": None}), home=home)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"label": {"column": "clik"}}, r"label.column.*'clik'.*did you mean 'click'"),
        ({"timestamp": "tme"}, r"timestamp.*'tme'.*did you mean 'time'"),
        ({"fields": [{"name": "city"}, {"name": "device", "column": "devise"}]}, r"field 'device'.*'devise'"),
        ({"split": {"by": "hash", "key": "who"}}, r"split.key.*'who'"),
        ({"probability": "truth"}, r"probability.*'truth'"),
    ],
)
def test_a_missing_column_is_refused(
    make_card: MakeCard, frame: pl.DataFrame, home: Path, changes: dict[str, object], match: str
) -> None:
    with pytest.raises(CardError, match=f"the data lack a column of the card .*{match}"):
        prepare(make_card(frame, **changes), home=home)
    assert is_empty(home)


@pytest.mark.parametrize("label", ["2", "1000", "-1", "0.5", "inf", "yes"])
def test_a_label_other_than_0_and_1_is_refused(
    make_card: MakeCard, frame: pl.DataFrame, home: Path, label: str
) -> None:
    wrong = frame.with_columns(
        pl.when(time=10).then(pl.lit(label)).otherwise(pl.col("click").cast(pl.String)).alias("click")
    )
    match = rf"a label is 0 or 1: column 'click' has '{label}' in row 5.*positive_from"
    with pytest.raises(DataError, match=match):
        prepare(make_card(wrong), home=home)
    assert is_empty(home)


def test_a_missing_label_is_refused(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    wrong = frame.with_columns(pl.when(time=7).then(None).otherwise("click").alias("click"))
    with pytest.raises(DataError, match=r"'click' has no value in row 1"):
        prepare(make_card(wrong), home=home)


def test_the_row_number_of_an_error_counts_all_batches(
    make_card: MakeCard, frame: pl.DataFrame, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.data.staging.BATCH_ROWS", 4)
    wrong = frame.with_columns(pl.when(time=8).then(None).otherwise("time").alias("time"))
    with pytest.raises(DataError, match=r"a timestamp is .*'time' has no value in row 12"):
        prepare(make_card(wrong), home=home)


def test_text_in_a_numeric_field_is_refused(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    wrong = frame.with_columns(pl.col("price").cast(pl.String).replace("9.0", "cheap"))
    with pytest.raises(DataError, match=r"holds finite numbers: column 'price' has 'cheap' in row 5"):
        prepare(make_card(wrong), home=home)


def test_a_list_in_a_categorical_field_is_refused(
    make_card: MakeCard, frame: pl.DataFrame, home: Path
) -> None:
    lists = frame.with_columns(pl.concat_list("city"))
    with pytest.raises(CardError, match="kind multi_valued or sequence: 'city'"):
        prepare(make_card(lists, file="data.parquet"), home=home)


def test_an_empty_split_is_refused(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    with pytest.raises(DataError, match=r"empty split.*train"):
        prepare(make_card(frame.with_columns(pl.lit(3).alias("time"))), home=home)
    assert is_empty(home)


def test_a_table_without_rows_is_refused(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    with pytest.raises(DataError, match="have no rows"):
        prepare(make_card(frame.clear()), home=home)


def test_an_unknown_domain_feature_is_refused_before_any_work(card: DatasetCard, home: Path) -> None:
    with pytest.raises(SettingError, match=r"no such field: citty.*did you mean 'city'"):
        prepare(card, home=home, domains=("citty",))
    assert not home.exists()


def test_invalid_utf8_is_named_with_its_line(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    card = make_card(frame)
    path = Path(card.path or "")
    path.write_bytes(path.read_bytes().replace(b"x|q", b"x\xff"))
    with pytest.raises(DataError, match=r"data.csv: line 9 is not UTF-8"):
        prepare(card, home=home)


def test_a_missing_source_is_refused(card: DatasetCard, home: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such data file"):
        prepare(card, home=home, sources=[tmp_path / "none.csv"])
    assert is_empty(home)


def test_invalid_files_raise_errors_of_ctrbench(make_card: MakeCard, home: Path) -> None:
    for text in ("", "click", "a,b\n1\n", "\x00\x01", "a,a\n1,2\n"):
        with pytest.raises(CtrbenchError):
            prepare(make_card(text), home=home)


JSON_LINES = '''
"""JSON lines."""

import polars as pl

from ctrbench.readers.base import RawData, Reader


class JsonLines(Reader):
    def read(self, request):
        return RawData(frame=pl.scan_ndjson(list(request.paths)), files=request.paths)
'''


@pytest.mark.parametrize(
    ("path", "message"), [("nowhere.jsonl", "no such data file"), (".", "a reader must return files")]
)
def test_a_reader_gets_files_that_exist_and_returns_files(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "json_lines.py").write_text(JSON_LINES, encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"shop": 1, "click": 0}\n', encoding="utf-8")
    (tmp_path / "card.toml").write_text(
        f'name = "own"\ntitle = "Own"\nreader = "json_lines.py"\npath = "{path}"\nrepresentative = "shop"\n'
        'label = { column = "click" }\ndomain_sets = { default = ["shop"] }\nfields = [{ name = "shop" }]\n',
        encoding="utf-8",
    )
    with pytest.raises(SourceError, match=message):
        prepare(read_card(tmp_path / "card.toml"), home=tmp_path / "home")
