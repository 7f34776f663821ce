from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctrbench.data.card import DatasetCard, read_card
from ctrbench.data.draft import draft_card, write_card
from ctrbench.data.prepare import prepare
from ctrbench.errors import DataError

ROWS = 600


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    generator = np.random.default_rng(1)
    genres = ["drama", "comedy", "drama|comedy", "horror|drama", "comedy|horror"]
    return pl.DataFrame(
        {
            "impression_id": np.arange(ROWS) + 5000,
            "user_id": generator.integers(0, 90, ROWS),
            "user gender": generator.choice(["f", "m"], ROWS),
            "item_id": generator.integers(10**17, 10**17 + 50, ROWS),
            "genres": generator.choice(genres, ROWS),
            "price": generator.random(ROWS).round(4),
            "view_count": generator.integers(0, 10_000, ROWS),
            "tab": generator.integers(0, 4, ROWS),
            "domain": generator.choice(["de", "fr"], ROWS),
            "version": np.ones(ROWS, dtype=np.int64),
            "is_like": generator.integers(0, 2, ROWS),
            "is_click": generator.integers(0, 2, ROWS),
            "time_ms": 1_650_000_000_000 + generator.permutation(ROWS) * 1000,
        }
    )


def draft(frame: pl.DataFrame, path: Path) -> DatasetCard:
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path)
    return load(path)


def load(data: Path) -> DatasetCard:
    card = data.parent / "draft.toml"
    card.write_text(draft_card(data))
    return read_card(card)


def test_a_draft_guesses_label_time_fields_and_domains(frame: pl.DataFrame, tmp_path: Path) -> None:
    card = draft(frame, tmp_path / "my shop.csv")
    assert (card.name, card.title) == ("my_shop", "my shop") or card.name == "my_shop"
    assert (card.label.column, card.timestamp, card.user) == ("is_click", "time_ms", "user_id")
    assert [(field.name, field.kind, field.role) for field in card.fields] == [
        ("user_id", "categorical", "user"),
        ("user_gender", "categorical", "user"),
        ("item_id", "categorical", "item"),
        ("genres", "multi_valued", "other"),
        ("price", "numeric", "other"),
        ("view_count", "numeric", "other"),
        ("tab", "categorical", "context"),
        ("domain_", "categorical", "context"),
    ]
    assert card.field("user_gender").column == "user gender"
    assert card.field("genres").separator == "|"
    assert card.field("view_count").buckets == 20
    assert card.domain_sets == {"default": ("domain_", "tab", "user_gender")}


def test_omitted_columns_have_a_reason(frame: pl.DataFrame, tmp_path: Path) -> None:
    frame.write_csv(tmp_path / "a.csv")
    text = draft_card(tmp_path / "a.csv", name="other")
    assert 'name = "other"' in text
    assert "# omitted: impression_id: a different value in each row" in text
    assert "# omitted: version: only one value" in text
    assert "# omitted: is_like: its name denotes another outcome" in text


def test_csv_gz_and_parquet_give_the_same_content(frame: pl.DataFrame, tmp_path: Path) -> None:
    frame.write_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    frame.write_parquet(tmp_path / "c.parquet")
    prepared = [prepare(load(tmp_path / name), home=tmp_path) for name in ("a.csv", "b.csv.gz", "c.parquet")]
    assert len({dataset.manifest.content_digest for dataset in prepared}) == 1
    assert prepared[0].manifest.domain_sets["default"].num_domains == 2 * 4 * 2


def test_without_time_rows_are_split_by_a_hash(frame: pl.DataFrame, tmp_path: Path) -> None:
    card = draft(frame.drop("time_ms"), tmp_path / "a.csv")
    assert (card.timestamp, card.split.by) == (None, "hash")
    prepare(card, home=tmp_path)


def test_text_dates_are_a_timestamp(frame: pl.DataFrame, tmp_path: Path) -> None:
    date = pl.from_epoch("time_ms", time_unit="ms").dt.strftime("%Y-%m-%d %H:%M:%S")
    card = draft(frame.with_columns(date.alias("seen")).drop("time_ms"), tmp_path / "a.csv")
    assert card.timestamp == "seen"
    assert prepare(card, home=tmp_path).manifest.has_time


def test_the_finest_time_is_the_timestamp_and_others_are_fields(frame: pl.DataFrame, tmp_path: Path) -> None:
    card = draft(frame.with_columns((20240101 + pl.col("tab")).alias("date")), tmp_path / "a.csv")
    assert card.timestamp == "time_ms"
    assert "date" in [field.name for field in card.fields]


def test_ratings_get_a_threshold(frame: pl.DataFrame, tmp_path: Path) -> None:
    rated = frame.drop("is_like", "is_click").with_columns((pl.col("user_id") % 5 + 1).alias("rating"))
    card = draft(rated, tmp_path / "a.csv")
    assert (card.label.column, card.label.positive_from) == ("rating", 4.0)


def test_other_separators_are_detected(frame: pl.DataFrame, tmp_path: Path) -> None:
    frame.write_csv(tmp_path / "a.tsv", separator="\t")
    card = load(tmp_path / "a.tsv")
    assert card.separator == "\t"
    prepare(card, home=tmp_path)


def test_parquet_lists_and_histories_are_detected(frame: pl.DataFrame, tmp_path: Path) -> None:
    lists = frame.with_columns(
        pl.col("genres").str.split("|"),
        pl.col("genres").str.replace_all("|", ";", literal=True).alias("hist_genres"),
    )
    card = draft(lists, tmp_path / "a.parquet")
    assert card.field("genres").kind == "multi_valued"
    assert (card.field("hist_genres").kind, card.field("hist_genres").separator) == ("sequence", ";")
    prepare(card, home=tmp_path)


def test_sentences_are_not_lists(frame: pl.DataFrame, tmp_path: Path) -> None:
    titles = frame.with_columns(pl.format("Title {}, part {}", "item_id", "time_ms").alias("title"))
    assert draft(titles, tmp_path / "a.csv").field("title").kind == "categorical"


def test_names_and_values_with_quotes_give_valid_toml(frame: pl.DataFrame, tmp_path: Path) -> None:
    odd = frame.rename({"item_id": 'item "x"\\ü'}).with_columns(
        pl.lit('a"\n#b').alias("o"), tab=pl.col("tab")
    )
    card = draft(odd, tmp_path / "a.csv")
    assert 'item "x"\\ü' in [field.source_column for field in card.fields]
    prepare(card, home=tmp_path)


def test_data_without_label_are_refused(frame: pl.DataFrame, tmp_path: Path) -> None:
    frame.drop("is_like", "is_click").write_csv(tmp_path / "a.csv")
    with pytest.raises(DataError, match="no column looks like a label"):
        draft_card(tmp_path / "a.csv")


def test_data_without_domain_feature_are_refused(frame: pl.DataFrame, tmp_path: Path) -> None:
    frame.select("price", "is_click").write_csv(tmp_path / "a.csv")
    with pytest.raises(DataError, match="no column can be a domain feature"):
        draft_card(tmp_path / "a.csv")


def test_data_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="must have rows"):
        draft_card(tmp_path / "a.csv")


def test_the_path_of_data_in_the_folder_of_the_card_is_relative(frame: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    frame.write_csv(tmp_path / "raw" / "a.csv")
    write_card(tmp_path / "raw" / "a.csv", tmp_path / "a.toml")
    assert 'path = "raw/a.csv"\n' in (tmp_path / "a.toml").read_text()
    assert read_card(tmp_path / "a.toml").path == str(tmp_path / "raw" / "a.csv")


def test_an_absolute_path_is_explained(frame: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    frame.write_csv(tmp_path / "a.csv")
    write_card(tmp_path / "a.csv", tmp_path / "cards" / "a.toml")
    text = (tmp_path / "cards" / "a.toml").read_text()
    assert "# Absolute, since the data are outside the folder of the card;" in text
    assert f'that folder.\npath = "{tmp_path}/a.csv"\n' in text
    assert "# Absolute, since the folder of the card is unknown" in draft_card(tmp_path / "a.csv")


def test_a_draft_says_that_preparing_checks_all_rows(tmp_path: Path) -> None:
    rows = [f"{i},{i % 3},{i % 2}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["time,shop,click", *rows]) + "\n", encoding="utf-8")
    first, second = draft_card(tmp_path / "a.csv").splitlines()[:2]
    assert first == "# Drafted from the first 40 rows of a.csv. Check each guess below."
    assert second == "# `ctrbench prepare` checks all rows and names the row of a value that breaks a rule."
