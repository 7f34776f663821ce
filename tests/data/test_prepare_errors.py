"""Cards and raw files that `prepare` refuses."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ctrbench.data.card import DatasetCard, read_card
from ctrbench.data.draft import write_card
from ctrbench.data.manifest import write_manifest
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import open_prepared
from ctrbench.errors import CardError, CtrbenchError, DataError, SettingError, SourceError

MakeCard = Callable[..., DatasetCard]


def is_empty(home: Path) -> bool:
    return [path for path in (home / "datasets").iterdir() if path.suffix != ".lock"] == []


def test_several_missing_columns_are_reported_at_once(
    make_card: MakeCard, frame: pl.DataFrame, home: Path
) -> None:
    with pytest.raises(CardError, match=r"no 'clik' \(label.column\), no 'tme' \(timestamp\)"):
        prepare(make_card(frame, label={"column": "clik"}, timestamp="tme"), home=home)


def test_a_second_card_of_the_same_name_is_refused(tmp_path: Path, frame: pl.DataFrame, home: Path) -> None:
    cards = []
    rows = pl.concat([frame] * 5)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        rows.write_csv(tmp_path / folder / "shop.csv")
        cards.append(tmp_path / folder / "card.toml")
        write_card(tmp_path / folder / "shop.csv", cards[-1])
    first = prepare(read_card(cards[0]), home=home)
    rows.reverse().write_csv(tmp_path / "b" / "shop.csv")
    with pytest.raises(
        SettingError, match=r"same name: shop of .*b/card.toml is .* of .*a/card.toml.*--force"
    ):
        prepare(read_card(cards[1]), home=home)
    assert open_prepared("shop", home).manifest.created == first.manifest.created
    assert open_prepared("shop", home).manifest.card_file == str(cards[0])
    replaced = prepare(read_card(cards[1]), home=home, force=True)
    assert replaced.manifest.card_file == str(cards[1])


def test_an_edited_card_replaces_its_dataset(tmp_path: Path, frame: pl.DataFrame, home: Path) -> None:
    pl.concat([frame] * 5).write_csv(tmp_path / "shop.csv")
    file = tmp_path / "card.toml"
    write_card(tmp_path / "shop.csv", file)
    prepare(read_card(file), home=home)
    file.write_text(file.read_text().replace('title = "shop"', 'title = "Our shop"'))
    assert prepare(read_card(file), home=home).manifest.title == "Our shop"


def test_a_wrong_label_is_located_in_the_files_that_the_user_named(
    make_card: MakeCard, frame: pl.DataFrame, home: Path, tmp_path: Path
) -> None:
    wrong = frame.with_columns(pl.when(time=7).then(3).otherwise("click").alias("click"))
    with pytest.raises(DataError, match=r"column 'click' has 3 in .*data.parquet, row 1\."):
        prepare(make_card(wrong, file="data.parquet"), home=home)
    folder = tmp_path / "parts"
    folder.mkdir()
    frame.write_csv(folder / "a.csv")
    (folder / "b.csv.gz").write_bytes(gzip.compress(wrong.write_csv().encode()))
    card = make_card(frame).model_copy(update={"path": str(folder)})
    with pytest.raises(DataError, match=r"column 'click' has '3' in .*b.csv.gz, line 2\."):
        prepare(card, home=home)


def test_a_card_without_data_is_refused_with_a_remedy(card: DatasetCard, home: Path) -> None:
    with pytest.raises(CardError, match=r"the card must name its data: shop.*--source PATH"):
        prepare(card.model_copy(update={"path": None}), home=home)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"label": {"column": "clik"}}, r"no 'clik' \(label.column\).*did you mean 'click'"),
        ({"timestamp": "tme"}, r"no 'tme' \(timestamp\).*did you mean 'time'"),
        (
            {"fields": [{"name": "city"}, {"name": "device", "column": "devise"}]},
            r"no 'devise' \(field 'device'\)",
        ),
        ({"split": {"by": "hash", "key": "who"}}, r"no 'who' \(split.key\).*the data have: time, city"),
        ({"probability": "truth"}, r"no 'truth' \(probability\)"),
    ],
)
def test_a_missing_column_is_refused(
    make_card: MakeCard, frame: pl.DataFrame, home: Path, changes: dict[str, object], match: str
) -> None:
    with pytest.raises(CardError, match=f"the data must have the columns of the card: {match}"):
        prepare(make_card(frame, **changes), home=home)
    assert is_empty(home)


@pytest.mark.parametrize("label", ["2", "1000", "-1", "0.5", "inf", "yes"])
def test_a_label_other_than_0_and_1_is_refused(
    make_card: MakeCard, frame: pl.DataFrame, home: Path, label: str
) -> None:
    wrong = frame.with_columns(
        pl.when(time=10).then(pl.lit(label)).otherwise(pl.col("click").cast(pl.String)).alias("click")
    )
    match = rf"a label must be 0 or 1: column 'click' has '{label}' in .*data.csv, line 6.*positive_from"
    with pytest.raises(DataError, match=match):
        prepare(make_card(wrong), home=home)
    assert is_empty(home)


def test_a_missing_label_is_refused(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    wrong = frame.with_columns(pl.when(time=7).then(None).otherwise("click").alias("click"))
    with pytest.raises(
        DataError, match=r"'click' has no value in .*data.csv, line 2\. fill in the value, or remove the row"
    ):
        prepare(make_card(wrong), home=home)


def test_the_row_number_of_an_error_counts_all_batches(
    make_card: MakeCard, frame: pl.DataFrame, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.data.staging.BATCH_ROWS", 4)
    wrong = frame.with_columns(pl.when(time=8).then(None).otherwise("time").alias("time"))
    with pytest.raises(DataError, match=r"a timestamp must be .*'time' has no value in .*data.csv, line 13"):
        prepare(make_card(wrong), home=home)


def test_text_in_a_numeric_field_is_refused(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    wrong = frame.with_columns(pl.col("price").cast(pl.String).replace("9.0", "cheap"))
    with pytest.raises(
        DataError, match=r"must hold finite numbers: column 'price' has 'cheap' in .*data.csv, line 6"
    ):
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
    with pytest.raises(DataError, match="must have rows"):
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


def test_a_generated_dataset_is_not_replaced(tmp_path: Path, frame: pl.DataFrame, home: Path) -> None:
    pl.concat([frame] * 5).write_csv(tmp_path / "shop.csv")
    write_card(tmp_path / "shop.csv", tmp_path / "card.toml")
    card = read_card(tmp_path / "card.toml")
    first = prepare(card, home=home)
    generated = first.manifest.model_copy(
        update={"generator": {"spec": {"data_version": 2}}, "card_file": None, "card_digest": "0" * 64}
    )
    write_manifest(first.root, generated)
    with pytest.raises(SettingError, match=r"already the dataset of a generator"):
        prepare(card, home=home)


@pytest.mark.parametrize("path", ["a" * 300, "none.csv", "file.csv/below.csv"])
def test_a_source_that_no_file_has_is_refused(
    tmp_path: Path, card: DatasetCard, home: Path, path: str
) -> None:
    (tmp_path / "file.csv").touch()
    with pytest.raises(SourceError, match=r"no such data file: .*--source PATH"):
        prepare(card, sources=[tmp_path / path], home=home)
