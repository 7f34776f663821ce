from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from ctrbench.data.card import load_card
from ctrbench.data.generated.forecast import forecast
from ctrbench.data.generated.options import (
    GenerationOptions,
    check_domains,
    command_of,
    dataset_name,
    parse_spec,
)
from ctrbench.data.generated.prepare import prepare_generated
from ctrbench.data.generated.rows import generator_of
from ctrbench.data.generated.shards import (
    GENERATOR,
    GeneratedShard,
    Piece,
    generate_shard,
    plan_pieces,
    read_note,
)
from ctrbench.data.home import prepared_names
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.errors import DataError, SettingError
from ctrbench.names import Column, DomainColumn, Split
from ctrbench.storage.files import read_text
from ctrbench.synthetic.production.generator import Production
from ctrbench.synthetic.production.spec import ProductionSpec, spec_for

SPEC = ProductionSpec(
    rows=9_000,
    domains=50,
    users=3_000,
    calibration_rows=1 << 14,
    sequences=True,
    sequence_length=5,
    shard_rows=1024,
)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Two homes with the same data, one with stored rows and one without."""
    found = {}
    for is_stored in (True, False):
        found[is_stored] = tmp_path_factory.mktemp("home")
        prepare_generated(SPEC, home=found[is_stored], is_stored=is_stored, jobs=1)
    return found


@pytest.fixture
def prepared(homes: dict[bool, Path]) -> Prepared:
    return open_prepared(dataset_name(SPEC), homes[True])


def test_the_card_names_the_generators_fields() -> None:
    made = Production(ProductionSpec(rows=9_000, domains=50), None).fields  # type: ignore[arg-type]
    card = load_card("production")
    assert [(one.name, one.kind, one.role) for one in card.fields] == [
        (one.name, one.kind, one.role) for one in made
    ]


def test_shards_hold_the_generators_rows(prepared: Prepared) -> None:
    generator = generator_of(json.dumps(prepared.manifest.generator))
    table = prepared.read(Split.DEV)
    expected = generator.rows(6000, 7500)
    assert [shard.rows for shard in prepared.manifest.splits[Split.DEV].shards] == [1024, 476]
    for name in (
        "row",
        "label",
        "time",
        "probability",
        "ceiling",
        "user_id",
        "ad_position",
        "item_ctr",
        "bid",
    ):
        assert np.array_equal(
            np.asarray(table[name]), expected[name].astype(np.asarray(table[name]).dtype)
        ), name
    assert np.asarray(table["probability"]).dtype == np.float32
    histories = table["item_history"].to_pylist()
    assert histories[:50] == [[one for one in row if one] for row in expected["item_history"][:50].tolist()]


def test_splits_are_the_days(prepared: Prepared) -> None:
    assert [prepared.manifest.splits[split].rows for split in Split] == [6000, 1500, 1500]
    days = {split: set(np.asarray(prepared.read(split, ["time"])["time"]) // 86400) for split in Split}
    assert days == {Split.TRAIN: {0, 1, 2, 3}, Split.DEV: {4}, Split.TEST: {5}}


def test_domains_are_counted_as_rows_show_them(prepared: Prepared) -> None:
    features = ("scenario", "ad_position", "user_profile")
    rows = {
        split: list(zip(*(np.asarray(prepared.read(split)[name]).tolist() for name in features), strict=True))
        for split in Split
    }
    table = prepared.domain_table()
    counts = Counter(rows[Split.TRAIN])
    assert (
        dict(zip(table.select(features).rows()[1:], table["rows_train"].to_list()[1:], strict=True)) == counts
    )
    unseen = sum(one not in counts for one in rows[Split.TEST])
    assert table[DomainColumn.ROWS.format(split=Split.TEST)][0] == unseen
    assert prepared.domain_set("default").rows_unseen[Split.TEST] == unseen
    labels = np.asarray(prepared.read(Split.TRAIN, ["label"])["label"])
    assert table["positives_train"].sum() == labels.sum() == prepared.manifest.splits[Split.TRAIN].positives


def test_vocabularies_count_training_rows(prepared: Prepared) -> None:
    vocabulary = prepared.vocabulary("ad_position")
    positions = np.asarray(prepared.read(Split.TRAIN)["ad_position"])
    assert vocabulary["rows"].to_list() == np.bincount(positions, minlength=19)[1:].tolist()


def test_ids_without_a_vocabulary_are_counted_in_the_training_rows(prepared: Prepared) -> None:
    fields = ["ad_position", "user_id", "item_history"]
    counts = prepared.rows_per_id(fields)
    table = prepared.read(Split.TRAIN)
    assert counts["ad_position"][1:].tolist() == prepared.vocabulary("ad_position")["rows"].to_list()
    assert (
        counts["user_id"].tolist() == np.bincount(table["user_id"], minlength=len(counts["user_id"])).tolist()
    )
    expected = np.zeros_like(counts["item_history"])
    for items in table["item_history"].to_pylist():
        expected[list(set(items))] += 1
    assert counts["item_history"].tolist() == expected.tolist()


def test_rows_made_when_read_are_those_stored(homes: dict[bool, Path]) -> None:
    stored, made = (open_prepared(dataset_name(SPEC), homes[one]) for one in (True, False))
    assert not list((homes[False] / "datasets" / dataset_name(SPEC)).glob("*/shards"))
    for split in Split:
        assert made.read(split, made.model_columns).equals(stored.read(split, stored.model_columns))
    assert made.manifest.content_digest == stored.manifest.content_digest
    assert made.manifest.domain_sets == stored.manifest.domain_sets
    made.verify()


def test_an_interrupted_preparation_makes_only_what_is_missing(tmp_path: Path) -> None:
    done: list[str] = []

    def stops(function: object, pieces: list[Piece]) -> list[GeneratedShard]:
        for piece in pieces[:3]:
            generate_shard(piece)
        raise KeyboardInterrupt

    def notes(function: object, pieces: list[Piece]) -> list[GeneratedShard]:
        found = []
        for piece in pieces:
            if read_note(piece, read_text(piece.folder / GENERATOR)) is None:
                done.append(piece.file)
            found.append(generate_shard(piece))
        return found

    with pytest.raises(KeyboardInterrupt):
        prepare_generated(SPEC, home=tmp_path, dispatch=stops)  # type: ignore[arg-type]
    assert prepared_names(tmp_path) == []
    (damaged,) = (tmp_path / "datasets" / dataset_name(SPEC)).glob("*/shards/train-00001.parquet")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    prepare_generated(SPEC, home=tmp_path, dispatch=notes)  # type: ignore[arg-type]
    assert len(done) == 10 - 2
    assert "shards/train-00001.parquet" in done


def test_force_generates_every_shard_again(tmp_path: Path) -> None:
    first = prepare_generated(SPEC, home=tmp_path, jobs=1)
    written = (first.folder / "shards" / "test-00000.parquet").stat().st_mtime_ns
    again = prepare_generated(SPEC, home=tmp_path, jobs=1, force=True)
    assert (again.folder / "shards" / "test-00000.parquet").stat().st_mtime_ns > written
    assert not first.folder.exists()
    assert again.manifest.splits == first.manifest.splits


def test_shards_of_another_recipe_are_not_reused(tmp_path: Path) -> None:
    prepared = prepare_generated(SPEC, home=tmp_path, jobs=1)
    (piece, *_) = plan_pieces(prepared.folder, SPEC, is_stored=True)
    content = read_text(prepared.folder / GENERATOR)
    assert read_note(piece, content) is not None
    assert read_note(piece, content.replace('"seed": 0', '"seed": 1')) is None


def test_too_little_disk_space_is_an_error_before_anything_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DataError, match="--on-the-fly"):
        prepare_generated(SPEC, home=tmp_path, jobs=1)
    assert prepared_names(tmp_path) == []


def test_the_order_of_shards_does_not_matter(prepared: Prepared, tmp_path: Path) -> None:
    again = prepare_generated(SPEC, home=tmp_path, dispatch=lambda make, pieces: map(make, reversed(pieces)))
    manifests = [one.manifest.model_dump(exclude={"created"}) for one in (again, prepared)]
    assert manifests[0] == manifests[1]


def test_an_existing_dataset_is_returned(prepared: Prepared, homes: dict[bool, Path]) -> None:
    def never(function: object, pieces: object) -> list[GeneratedShard]:
        raise AssertionError

    assert (
        prepare_generated(SPEC, home=homes[True], dispatch=never).manifest.created
        == prepared.manifest.created
    )


def test_data_of_another_version_of_the_generator_are_refused(
    homes: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.data.prepared.DATA_VERSION", 3)
    with pytest.raises(DataError, match=r"is of version 2\. prepare it again: ctrbench prepare production"):
        open_prepared(dataset_name(SPEC), homes[True])


def test_histories_share_the_items_ids(prepared: Prepared) -> None:
    fields = {field.name: field for field in prepared.manifest.fields}
    assert fields["item_history"].size == fields["item_id"].size == SPEC.num_items + 1
    assert prepared.manifest.card.field("item_history").target == "item_id"


@pytest.mark.parametrize(
    ("rows", "variant", "name"),
    [
        ("20e6", "", "production-20m"),
        ("2.2e9", "null", "production-2.2g-null"),
        ("2.2e9", "rows-per-user=100", "production-2.2g-rows-per-user-100"),
        ("123456700", "", "production-123456.7k"),
        ("123457000", "", "production-123457k"),
        ("262144", "interaction=mlp, long-tail,seed=3", "production-262144-seed-3-mlp-long-tail"),
        ("2e6", "users=1000000", "production-2m-users-1000000"),
    ],
)
def test_names_tell_specs_apart(rows: str, variant: str, name: str) -> None:
    assert dataset_name(parse_spec(rows=rows, variant=variant)) == name


def test_the_command_of_a_spec_makes_it_again() -> None:
    spec = parse_spec(rows="2e6", variant="null,seed=7,interaction=tree")
    command = command_of(spec)
    assert command == "ctrbench prepare production --rows 2000000 --variant seed=7,interaction=tree,null"
    assert parse_spec(rows="2000000", variant="seed=7,interaction=tree,null") == spec


def test_other_domain_sets_are_of_fields_of_few_values(homes: dict[bool, Path]) -> None:
    for home in homes.values():
        prepared = open_prepared(dataset_name(SPEC), home)
        counted, name = prepared.ensure_domains(("gender", "city"))
        assert counted.domain_table(name)["rows_train"].sum() == 6000
        with pytest.raises(SettingError, match="low-cardinality fields"):
            prepared.ensure_domains(("user_id",))
    check_domains(("gender", "city"), SPEC)
    with pytest.raises(SettingError, match="at most 2,000 values"):
        check_domains(("user_id",), parse_spec(rows="2e6", variant=None))


def test_damaged_notes_are_written_again_and_damaged_constants_are_refused(tmp_path: Path) -> None:
    prepared = prepare_generated(SPEC, home=tmp_path, jobs=1)
    folder = prepared.folder
    (folder / "notes" / "train-00000.json").write_text("{", encoding="utf-8")
    (prepared.root / "manifest.json").unlink()
    assert prepare_generated(SPEC, home=tmp_path, jobs=1).manifest.splits[Split.TRAIN].rows == 6000
    (prepared.root / "manifest.json").unlink()
    (folder / GENERATOR).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="constants is damaged"):
        prepare_generated(SPEC, home=tmp_path, jobs=1)


def test_stored_shards_are_removed_when_rows_are_generated_on_the_fly(tmp_path: Path) -> None:
    stored = prepare_generated(SPEC, home=tmp_path, jobs=1)
    assert list(stored.folder.glob("shards/*"))
    made = prepare_generated(SPEC, home=tmp_path, is_stored=False, jobs=1)
    assert not list(stored.folder.glob("shards/*"))
    made.verify()


@pytest.mark.parametrize(
    ("rows", "variant", "message"),
    [
        ("many", None, "whole number"),
        ("1.5", None, "whole number"),
        ("5", None, "rows must lie between"),
        ("1e12", None, "rows must lie between"),
        ("inf", None, "whole number"),
        ("2e6", "rows=2000", "set the number of rows with --rows"),
        ("200n", None, "did you mean '200m'"),
        ("2e6", "nul", "did you mean 'null'"),
        ("2e6", "interaction=cubic", "bilinear"),
        ("2e6", "null=some", "null must be a valid boolean: some"),
        ("2e6", "null=strict", "null must be a valid boolean: strict"),
        ("2e6", "domains=1", "greater than or equal to 2"),
        ("2e6", "rows-per-user=9", "rows-per-user must be greater than or equal to 10: 9"),
    ],
)
def test_wrong_settings_are_refused(rows: str, variant: str | None, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_spec(rows=rows, variant=variant)


def test_the_error_of_a_full_disk_names_sizes_and_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(
        DataError,
        match=r"not enough disk space for all rows: 0\.\d MB needed, 0\.1 MB free at .*--on-the-fly",
    ):
        prepare_generated(SPEC, home=tmp_path, jobs=1)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f".{dataset_name(SPEC)}.lock"]


def test_a_forecast_scales_with_the_rows() -> None:
    one, ten = forecast(SPEC), forecast(spec_for(90_000))
    assert ten.bytes == pytest.approx(90_000 * ten.bytes_per_row)
    assert one.hours(2) == pytest.approx(9_000 / one.rows_per_second / 2 / 3600)


def test_truth_is_read_with_the_rows(prepared: Prepared) -> None:
    table = prepared.read_shard(Split.TEST, 0, prepared.model_columns)
    assert isinstance(table, pa.Table)
    assert {Column.PROBABILITY, Column.CEILING} <= set(table.column_names)


def test_prepare_generates_the_rows_of_a_card_with_a_generator(tmp_path: Path) -> None:
    options = GenerationOptions(rows="2000", variant="domains=20,users=200", is_stored=False, jobs=1)
    prepared = prepare(load_card("production"), home=tmp_path, domains=("gender",), generation=options)
    assert prepared.manifest.name.startswith("production-2k")
    assert sum(part.rows for part in prepared.manifest.splits.values()) == 2000
    assert prepared.domain_set("gender").features == ("gender",)


def test_sources_of_generated_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--source must not be used with generated data"):
        prepare(load_card("production"), home=tmp_path, sources=[tmp_path])


def test_options_of_generated_data_are_refused_for_a_card_with_a_reader(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="must be used with a generated dataset: --rows"):
        prepare(load_card("movielens-1m"), home=tmp_path, generation=GenerationOptions(rows="2000"))
