from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.export import export
from ctrbench.data.generated.options import dataset_name
from ctrbench.data.generated.prepare import prepare_generated
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.errors import DataError, SettingError
from ctrbench.names import Split
from ctrbench.storage.files import parse_location
from ctrbench.synthetic.production.spec import ProductionSpec

FILE_ORDER = [7, 1, 12, 3, 10, 5, 2, 9, 4, 11, 6, 8]
"""Times in the order of the file; see conftest.py."""
SPEC = ProductionSpec(
    rows=3000,
    domains=20,
    users=300,
    calibration_rows=1 << 14,
    sequences=True,
    sequence_length=3,
    shard_rows=1024,
)


@pytest.fixture
def prepared(card: DatasetCard, home: Path) -> Prepared:
    return prepare(card, home=home)


def exported(folder: Path, split: str) -> pl.DataFrame:
    return pl.read_parquet(sorted(folder.glob(f"{split}-*.parquet")))


def test_ids_are_decoded_to_raw_values(prepared: Prepared, tmp_path: Path) -> None:
    export(prepared, tmp_path / "out")
    train = exported(tmp_path / "out", "train")
    assert train["city"].to_list() == ["A", "A", "B", "A", "B", "C", "A", "A"]
    assert train["tags"].to_list()[:3] == [["x", "y"], ["x"], []]
    assert train["label"].to_list() == [1, 0, 0, 1, 0, 1, 0, 1]
    assert train["time"].to_list() == list(range(1, 9))
    assert train["row"].to_list() == [FILE_ORDER.index(time) for time in range(1, 9)]


def test_numbers_are_unscaled_and_missing_ones_are_the_mean(prepared: Prepared, tmp_path: Path) -> None:
    export(prepared, tmp_path / "out")
    mean = (1 + 2 + 3 + 4 + 5 + 6 + 7) / 7
    expected = [1.0, 2.0, 3.0, mean, 4.0, 5.0, 6.0, 7.0]
    assert exported(tmp_path / "out", "train")["price"].to_list() == pytest.approx(expected, rel=1e-6)


def test_values_that_training_does_not_have_are_null(prepared: Prepared, tmp_path: Path) -> None:
    export(prepared, tmp_path / "out")
    dev, test = exported(tmp_path / "out", "dev"), exported(tmp_path / "out", "test")
    assert dev["city"].to_list() == ["B", None]
    assert dev["tags"].to_list() == [["x", None], ["x"]]
    assert test["domain"].to_list() == [0, 0]


def test_each_row_has_its_split_and_domain(prepared: Prepared, tmp_path: Path) -> None:
    export(prepared, tmp_path / "out", domain_set="city")
    train = exported(tmp_path / "out", "train")
    assert train["split"].to_list() == ["train"] * 8
    assert train["domain"].to_list() == [1, 1, 2, 1, 2, 3, 1, 1]


def test_the_description_names_fields_rows_and_domain_features(prepared: Prepared, tmp_path: Path) -> None:
    export(prepared, tmp_path / "out")
    description = json.loads((tmp_path / "out" / "dataset.json").read_text(encoding="utf-8"))
    assert description["rows"] == {"train": 8, "dev": 2, "test": 2}
    assert description["domain_features"] == ["city", "device"]
    assert description["fields"]["tags"] == {"kind": "multi_valued", "role": "item"}


def test_a_field_named_split_keeps_its_name(card: DatasetCard, home: Path, tmp_path: Path) -> None:
    fields = tuple(
        field.model_copy(update={"name": "split", "column": "device"}) if field.name == "device" else field
        for field in card.fields
    )
    changes = {"fields": fields, "domain_sets": {"default": ("city",)}}
    prepared = prepare(DatasetCard.model_validate(card.model_copy(update=changes).model_dump()), home=home)
    export(prepared, tmp_path / "out")
    dev = exported(tmp_path / "out", "dev")
    assert dev["split"].to_list() == ["m", "w"]
    assert dev["split_"].to_list() == ["dev", "dev"]


def test_a_folder_with_files_is_kept_unless_overwritten(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(SettingError, match="must be empty or new"):
        export(prepared, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]
    export(prepared, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_a_failure_leaves_nothing(prepared: Prepared, tmp_path: Path) -> None:
    (prepared.folder / "shards/test-00000.parquet").unlink()
    target = tmp_path / "exports" / "out"
    with pytest.raises(DataError, match="missing"):
        export(prepared, target)
    assert list(target.parent.iterdir()) == []


def test_progress_is_the_fraction_of_rows(prepared: Prepared, tmp_path: Path) -> None:
    calls: list[tuple[str, float]] = []
    export(prepared, tmp_path / "out", progress=lambda phase, done: calls.append((phase, done)))
    assert calls == [("export", 8 / 12), ("export", 10 / 12), ("export", 1.0)]


@pytest.mark.parametrize("is_stored", [True, False])
def test_generated_data_keep_all_their_columns(tmp_path: Path, *, is_stored: bool) -> None:
    prepare_generated(SPEC, home=tmp_path / "home", is_stored=is_stored, jobs=1)
    prepared = open_prepared(dataset_name(SPEC), tmp_path / "home")
    export(prepared, tmp_path / "out")
    train, rows = exported(tmp_path / "out", "train"), pl.from_arrow(prepared.read(Split.TRAIN))
    assert isinstance(rows, pl.DataFrame)
    assert train.select(rows.columns).equals(rows)
    assert {"probability", "split", "domain"} <= set(train.columns)


def test_an_export_to_a_bucket_is_complete(prepared: Prepared, bucket: str) -> None:
    folder = parse_location(f"{bucket}/exports/shop")
    export(prepared, folder)
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["dataset.json", "dev-00000.parquet", "test-00000.parquet", "train-00000.parquet"]


def test_exported_text_has_a_plain_type(prepared: Prepared, tmp_path: Path) -> None:
    export(prepared, tmp_path / "out")
    schema = pq.read_schema(tmp_path / "out" / "train-00000.parquet")
    assert str(schema.field("city").type) == "string"
    assert str(schema.field("tags").type) == "list<element: string>"


def test_a_sequence_is_decoded_with_the_vocabulary_of_its_target(
    make_card: Callable[..., DatasetCard], frame: pl.DataFrame, home: Path, tmp_path: Path
) -> None:
    fields = [
        {"name": "city"},
        {"name": "past", "kind": "sequence", "target": "city", "column": "tags", "separator": "|"},
    ]
    table = frame.with_columns(pl.lit("C|A").alias("tags"))
    card = make_card(table, fields=fields, domain_sets={"default": ["city"]})
    export(prepare(card, home=home), tmp_path / "out")
    assert exported(tmp_path / "out", "dev")["past"].to_list() == [["C", "A"], ["C", "A"]]
