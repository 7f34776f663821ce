from __future__ import annotations

import errno
import gzip
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import polars as pl
import pytest

from ctrbench.data import publish, shards, staging
from ctrbench.data.card import DatasetCard, read_card
from ctrbench.data.home import dataset_folder
from ctrbench.data.manifest import write_signed
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.data.publish import WAITING
from ctrbench.data.summary import summarize
from ctrbench.errors import CardError, CtrbenchError, DataError, SettingError, SourceError
from ctrbench.names import Split
from ctrbench.readers.table import TableReader
from ctrbench.storage.files import lock

MakeCard = Callable[..., DatasetCard]


def column(prepared: Prepared, split: Split, name: str) -> list[Any]:
    return prepared.read(split, [name]).column(name).to_pylist()


def is_empty(home: Path) -> bool:
    return [path for path in (home / "datasets").iterdir() if path.suffix != ".lock"] == []


# --- content of the prepared data; see conftest.py for the rows ---


def test_shards_hold_rows_in_time_order(card: DatasetCard, home: Path) -> None:
    prepared = prepare(card, home=home)
    assert column(prepared, Split.TRAIN, "time") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert column(prepared, Split.DEV, "time") == [9, 10]
    assert column(prepared, Split.TEST, "time") == [11, 12]
    assert column(prepared, Split.TEST, "row") == [9, 2]
    assert column(prepared, Split.TRAIN, "label") == [1, 0, 0, 1, 0, 1, 0, 1]


def test_ids_come_from_training_rows(card: DatasetCard, home: Path) -> None:
    prepared = prepare(card, home=home)
    assert prepared.vocabulary("city").rows() == [(1, "A", 5), (2, "B", 2), (3, "C", 1)]
    assert column(prepared, Split.TRAIN, "city") == [1, 1, 2, 1, 2, 3, 1, 1]
    # City D and a missing city do not occur in training.
    assert column(prepared, Split.DEV, "city") == [2, 0]
    assert column(prepared, Split.TEST, "city") == [3, 0]


def test_lists_keep_their_order_and_have_id_0_for_unseen_values(card: DatasetCard, home: Path) -> None:
    prepared = prepare(card, home=home)
    assert prepared.vocabulary("tags").rows() == [(1, "x", 4), (2, "y", 3), (3, "z", 2)]
    assert column(prepared, Split.TRAIN, "tags") == [[1, 2], [1], [], [2], [1, 1], [3], [1, 3], [2]]
    assert column(prepared, Split.DEV, "tags") == [[1, 0], [1]]


def test_numbers_are_standardized(card: DatasetCard, home: Path) -> None:
    prepared = prepare(card, home=home)
    info = prepared.manifest.field("price")
    assert (info.mean, info.std, info.size) == (4.0, 2.0, 0)
    assert column(prepared, Split.TRAIN, "price") == [-1.5, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 1.5]
    assert column(prepared, Split.TEST, "price") == [3.0, 3.5]


def test_domain_table(card: DatasetCard, home: Path) -> None:
    table = prepare(card, home=home).domain_table("default")
    # Columns: domain, key, city, device, rows and positives of train, dev and test.
    assert table.rows() == [
        (0, "unseen", 0, 0, 0, 0, 1, 1, 2, 1),
        (1, "A · m", 1, 1, 3, 3, 0, 0, 0, 0),
        (2, "A · w", 1, 2, 2, 0, 0, 0, 0, 0),
        (3, "B · m", 2, 1, 1, 0, 1, 0, 0, 0),
        (4, "B · w", 2, 2, 1, 0, 0, 0, 0, 0),
        (5, "C · m", 3, 1, 1, 1, 0, 0, 0, 0),
    ]


def test_types_of_the_shards(card: DatasetCard, home: Path) -> None:
    schema = prepare(card, home=home).read(Split.TRAIN).schema
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "row": "int64",
        "label": "int8",
        "time": "int64",
        "city": "int32",
        "device": "int32",
        "tags": "list<element: int32>",
        "price": "float",
    }


def test_a_missing_value_has_its_own_id(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    prepared = prepare(make_card(frame.with_columns(pl.col("city").replace("A", None))), home=home)
    assert prepared.vocabulary("city").rows()[0] == (1, "", 5)
    assert column(prepared, Split.TEST, "city") == [3, 1]


def test_leading_zeros_are_kept(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    prepared = prepare(make_card(frame.with_columns(pl.col("city").replace("A", "007"))), home=home)
    assert prepared.vocabulary("city")["value"][0] == "007"


def test_a_field_may_be_named_differently_from_its_column(
    make_card: MakeCard, frame: pl.DataFrame, home: Path
) -> None:
    fields = [{"name": "place", "column": "city"}, {"name": "again", "column": "city", "min_count": 2}]
    changes = {"fields": fields, "domain_sets": {"default": ["place"]}, "representative": "place"}
    prepared = prepare(make_card(frame, **changes), home=home)
    assert column(prepared, Split.TRAIN, "place") == [1, 1, 2, 1, 2, 3, 1, 1]
    assert column(prepared, Split.TRAIN, "again") == [1, 1, 2, 1, 2, 0, 1, 1]


def test_graded_labels_have_a_threshold(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    card = make_card(frame, label={"column": "time", "positive_from": 4})
    assert column(prepare(card, home=home), Split.TRAIN, "label") == [0, 0, 0, 1, 1, 1, 1, 1]


def test_boolean_labels_are_accepted(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    for file in ("data.csv", "data.parquet"):
        card = make_card(frame.cast({"click": pl.Boolean}), file=file)
        assert column(prepare(card, home=home), Split.TRAIN, "label") == [1, 0, 0, 1, 0, 1, 0, 1]


def test_datetimes_order_rows(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    dates = frame.with_columns(pl.lit("2024-02-0").add(pl.col("time").mod(9).cast(pl.String)).alias("time"))
    start = pl.datetime(2024, 2, 1) + pl.duration(hours="time")
    expected = [(1_706_745_600 + 3600 * hour) * 1_000_000 for hour in range(1, 9)]
    for file in ("data.csv", "data.parquet"):
        card = make_card(frame.with_columns(start.alias("time")), file=file)
        assert column(prepare(card, home=home), Split.TRAIN, "time") == expected
    with pytest.raises(DataError, match=r"a timestamp is.*'2024-02-00' in row 8"):
        prepare(make_card(dates), home=home)


def test_long_sequences_keep_their_end_and_long_lists_their_start(make_card: MakeCard, home: Path) -> None:
    frame = pl.DataFrame(
        {
            "time": range(12),
            "click": [0, 1] * 6,
            "city": ["A"] * 12,
            "past": ["a|b|c", "", "b", "c|c|b"] * 3,
            "tags": ["a|b|c", "", "b", "c|c|b"] * 3,
        }
    )
    fields = [
        {"name": "city"},
        {"name": "past", "kind": "sequence", "max_length": 2},
        {"name": "tags", "kind": "multi_valued", "max_length": 2},
    ]
    card = make_card(frame, fields=fields, domain_sets={"default": ["city"]})
    prepared = prepare(card, home=home)
    assert prepared.vocabulary("past").rows() == [(1, "b", 6), (2, "c", 4)]
    assert column(prepared, Split.TRAIN, "past")[:4] == [[1, 2], [], [1], [2, 1]]
    assert prepared.vocabulary("tags").rows() == [(1, "b", 4), (2, "a", 2), (3, "c", 2)]
    assert column(prepared, Split.TRAIN, "tags")[:4] == [[2, 1], [], [1], [3, 3]]


FILMS = {
    "time": list(range(12)),
    "click": [0, 1] * 6,
    "item": list("abcabdabcade"),
    "past": ["", "a", "a|b", "b|b", "c", "e", "a|c", "b", "c", "a|d", "d", "e|a"],
}
"""The first eight rows are training rows; `e` is the item of the last row only, but occurs in earlier sequences."""


def film_card(make_card: MakeCard, **target: object) -> DatasetCard:
    fields = [
        {"name": "item", "role": "item"} | {key: target.pop(key) for key in ("min_count",) if key in target},
        {"name": "past", "kind": "sequence", "max_length": 3, **target},
    ]
    changes = {"fields": fields, "domain_sets": {"default": ["item"]}, "representative": "item"}
    if "min_count" in fields[0]:
        changes |= {"domain_sets": {"default": ["click_time"]}, "representative": "click_time"}
        fields.append({"name": "click_time", "column": "click"})
    data = pl.DataFrame(FILMS)
    return make_card(data, name="films", title="Films", **changes)


def test_a_sequence_with_a_target_uses_the_ids_of_the_target(make_card: MakeCard, home: Path) -> None:
    prepared = prepare(film_card(make_card, target="item"), home=home)
    assert prepared.vocabulary("item").rows() == [(1, "a", 3), (2, "b", 3), (3, "c", 1), (4, "d", 1)]
    assert column(prepared, Split.TRAIN, "past") == [[], [1], [1, 2], [2, 2], [3], [0], [1, 3], [2]]
    # Values that the target does not have in training are unseen, even if training sequences have them.
    assert column(prepared, Split.TEST, "past") == [[4], [0, 1]]
    assert prepared.manifest.field("past").size == prepared.manifest.field("item").size == 5
    assert summarize(prepared).num_ids == 5


def test_rare_values_of_a_target_are_unseen_in_the_sequence(make_card: MakeCard, home: Path) -> None:
    prepared = prepare(film_card(make_card, target="item", min_count=2), home=home)
    assert prepared.vocabulary("item")["value"].to_list() == ["a", "b"]
    assert column(prepared, Split.TRAIN, "past") == [[], [1], [1, 2], [2, 2], [0], [0], [1, 0], [2]]


def test_digests_of_cards_without_target_equal_those_of_earlier_versions(
    make_card: MakeCard, home: Path
) -> None:
    """The digests of an earlier version, which are part of run keys."""
    card = film_card(make_card)
    assert card.digest == "252b8c0053e3986cf01e983cd9145cacb04fdd2c04e77eab2514a6bf749b0928"
    content = "e3fd309f21dd30b1b89b68a95d3ffc2c7eb36b24266edd1a6b793f5a95e0afcf"
    assert prepare(card, home=home).manifest.content_digest == content


def test_data_prepared_by_earlier_versions_are_not_prepared_again(make_card: MakeCard, home: Path) -> None:
    card = film_card(make_card)
    folder = prepare(card, home=home).root
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    for field in manifest["card"]["fields"]:
        del field["target"]
    write_signed(folder / "manifest.json", manifest | {"note": "kept"})
    assert prepare(card, home=home).manifest.note == "kept"
    assert open_prepared("films", home).manifest.card.fields == card.fields


def test_parquet_lists_equal_separated_text(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    kinds = [{"name": "city"}, {"name": "tags", "kind": "multi_valued"}]
    sequences = [{"name": "city"}, {"name": "tags", "kind": "sequence"}]
    for fields in (kinds, sequences):
        changes = {"fields": fields, "domain_sets": {"default": ["city"]}}
        text = prepare(make_card(frame, **changes), home=home)
        lists = frame.with_columns(pl.col("tags").str.split("|"))
        listed = prepare(make_card(lists, file="data.parquet", **changes), home=home)
        assert listed.manifest.content_digest == text.manifest.content_digest


def test_a_true_probability_is_stored(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    table = frame.with_columns((pl.col("time") / 100).alias("truth"))
    prepared = prepare(make_card(table, probability="truth"), home=home)
    assert prepared.manifest.has_probability
    assert column(prepared, Split.TEST, "probability") == [0.11, 0.12]


def test_random_rows_equal_a_row_by_row_encoding(
    make_card: MakeCard, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "BATCH_ROWS", 64)
    monkeypatch.setattr(shards, "SHARD_ROWS", 50)
    draw = random.Random(5)
    rows = [
        {
            "time": draw.randrange(200),
            "click": draw.randrange(2),
            "city": draw.choice("ABCDEFGHIJKLMNOP"),
            "tags": "|".join(draw.choices("stuvwxyz", k=draw.randrange(4))),
        }
        for _ in range(400)
    ]
    fields = [{"name": "city"}, {"name": "tags", "kind": "multi_valued"}]
    card = make_card(pl.DataFrame(rows), fields=fields, domain_sets={"default": ["city"]})
    prepared = prepare(card, home=home)

    times = sorted(row["time"] for row in rows)
    cuts = (times[400 * 4 // 6], times[400 * 5 // 6])
    bounds = {Split.TRAIN: (-1, cuts[0]), Split.DEV: cuts, Split.TEST: (cuts[1], 1000)}
    parts = {
        split: sorted((row["time"], number) for number, row in enumerate(rows) if low <= row["time"] < high)
        for split, (low, high) in bounds.items()
    }
    train = [rows[number] for _, number in parts[Split.TRAIN]]
    for split, part in parts.items():
        chosen = [rows[number] for _, number in part]
        assert column(prepared, split, "row") == [number for _, number in part]
        ids = _ids([[row["city"]] for row in train])
        assert column(prepared, split, "city") == [ids.get(row["city"], 0) for row in chosen]
        ids = _ids([row["tags"].split("|") for row in train])
        expected = [[ids.get(tag, 0) for tag in row["tags"].split("|") if tag] for row in chosen]
        assert column(prepared, split, "tags") == expected


def _ids(values: list[list[str]]) -> dict[str, int]:
    counts = Counter(value for row in values for value in set(row) if value)
    return {value: i for i, value in enumerate(sorted(counts, key=lambda v: (-counts[v], v)), start=1)}


def test_a_card_with_file_names_reads_only_these_files_of_a_folder(
    make_card: MakeCard, frame: pl.DataFrame, home: Path, tmp_path: Path
) -> None:
    card = make_card(frame, sources=[{"local": ["data.csv"]}]).model_copy(update={"path": None})
    (tmp_path / "other.csv").write_text("not,this\n1,2\n")
    prepared = prepare(card, home=home, sources=[tmp_path])
    assert [source.name for source in prepared.manifest.sources] == ["data.csv"]


# --- splits ---


def test_rows_without_timestamp_are_split_by_a_hash_and_keep_their_order(
    make_card: MakeCard, home: Path
) -> None:
    frame = pl.DataFrame({"click": [0, 1] * 150, "city": ["A", "B", "C"] * 100})
    changes = {"timestamp": None, "fields": [{"name": "city"}], "domain_sets": {"default": ["city"]}}
    prepared = prepare(make_card(frame, **changes), home=home)
    rows = [column(prepared, split, "row") for split in Split]
    assert all(part == sorted(part) for part in rows)
    assert sorted(rows[0] + rows[1] + rows[2]) == list(range(300))
    assert 170 < len(rows[0]) < 230
    assert not prepared.manifest.has_time


def test_rows_with_the_same_split_key_are_in_one_split(make_card: MakeCard, home: Path) -> None:
    frame = pl.DataFrame({"click": [0, 1] * 300, "who": [f"u{row // 6}" for row in range(600)]})
    changes = {"timestamp": None, "fields": [{"name": "who"}], "domain_sets": {"default": ["who"]}}
    split = {"by": "hash", "key": "who"}
    prepared = prepare(make_card(frame, representative="who", split=split, **changes), home=home)
    users = [{int(str(row)) // 6 for row in column(prepared, part, "row")} for part in Split]
    assert sum(map(len, users)) == len(set.union(*users)) == 100


# --- content digest ---


def test_csv_gz_and_parquet_give_the_same_content(
    make_card: MakeCard, frame: pl.DataFrame, home: Path
) -> None:
    digests = set()
    for file in ("data.csv", "data.csv.gz", "data.parquet"):
        data = frame.write_csv() if file.endswith(".gz") else frame
        card = make_card(data, file=file)
        if file.endswith(".gz"):
            path = Path(card.path or "")
            path.write_bytes(gzip.compress(path.read_bytes()))
        digests.add(prepare(card, home=home).manifest.content_digest)
    assert len(digests) == 1


def test_content_does_not_depend_on_batch_or_shard_size(
    card: DatasetCard, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(card, home=home).manifest
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    monkeypatch.setattr("ctrbench.data.staging.BATCH_ROWS", 5)
    second = prepare(card, home=home, force=True).manifest
    assert len(second.splits[Split.TRAIN].shards) == 3
    assert second.content_digest == first.content_digest


def test_content_depends_on_every_value(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    digest = prepare(make_card(frame), home=home).manifest.content_digest
    changed = frame.with_columns(pl.when(time=10).then(1.5).otherwise("price").alias("price"))
    assert prepare(make_card(changed), home=home).manifest.content_digest != digest


def test_vocabularies_do_not_depend_on_the_order_of_rows(
    make_card: MakeCard, frame: pl.DataFrame, home: Path
) -> None:
    prepared = prepare(make_card(frame), home=home)
    values = [prepared.vocabulary(field).rows() for field in ("city", "device", "tags")]
    ids = column(prepared, Split.TRAIN, "city")
    other = prepare(make_card(frame.reverse()), home=home)
    assert [other.vocabulary(field).rows() for field in ("city", "device", "tags")] == values
    assert column(other, Split.TRAIN, "city") == ids


# --- preparing again ---


def file_of(prepared: Prepared) -> int:
    return (prepared.root / "manifest.json").stat().st_ino


def make_old(card: DatasetCard) -> None:
    os.utime(card.path or "", ns=(1, 1))


def test_nothing_is_read_the_second_time(
    card: DatasetCard, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(card)
    first = prepare(card, home=home)
    before = file_of(first)
    monkeypatch.setattr(TableReader, "read", None)
    again = prepare(card, home=home)
    assert again.manifest == first.manifest
    assert file_of(again) == before


def test_a_new_file_with_the_same_content_changes_nothing(card: DatasetCard, home: Path) -> None:
    before = file_of(prepare(card, home=home))
    make_old(card)
    assert file_of(prepare(card, home=home)) == before


def test_a_recently_modified_file_is_read_despite_equal_size_and_time(
    make_card: MakeCard, frame: pl.DataFrame, home: Path
) -> None:
    first = prepare(make_card(frame), home=home)
    card = make_card(frame.with_columns(pl.col("city").replace("A", "Z")))
    inputs = (first.folder / "inputs.json").read_text()
    stat = Path(card.path or "").stat()
    # As if the file had been written within the resolution of the clock.
    (first.folder / "inputs.json").write_text(
        inputs.replace(inputs.split("[")[1].split("]")[0], f"{stat.st_size}, {stat.st_mtime_ns}")
    )
    assert prepare(card, home=home).vocabulary("city")["value"][0] == "Z"


def test_a_file_that_changes_while_it_is_read_is_refused(
    make_card: MakeCard, frame: pl.DataFrame, home: Path
) -> None:
    card = make_card(frame)
    make_old(card)

    def change(phase: str, _done: float) -> None:
        if phase == "encode":
            make_card(frame.with_columns(pl.col("city").replace("A", "Z")))
            os.utime(card.path or "", ns=(2, 2))

    with pytest.raises(DataError, match=r"changed while it was read: .*data.csv"):
        prepare(card, home=home, progress=change)
    assert is_empty(home)


def test_a_changed_card_is_prepared_again(make_card: MakeCard, frame: pl.DataFrame, home: Path) -> None:
    prepare(make_card(frame), home=home)
    card = make_card(frame, domain_sets={"default": ["device"]})
    assert prepare(card, home=home).domain_set("default").features == ("device",)


def test_force_prepares_again(card: DatasetCard, home: Path) -> None:
    first = prepare(card, home=home)
    before = file_of(first)
    again = prepare(card, home=home, force=True)
    assert file_of(again) != before
    assert again.manifest.content_digest == first.manifest.content_digest
    assert not first.folder.exists()


def test_a_reader_always_finds_a_dataset_while_it_is_replaced(
    card: DatasetCard, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step of the replacement is observed: before it there is the old dataset, after it the new one."""
    first = prepare(card, home=home)
    seen = []

    def observed(name: str) -> None:
        step = getattr(publish, name)

        def observe(*arguments: object) -> None:
            for before_or_after in (lambda: None, lambda: step(*arguments)):
                before_or_after()
                opened = open_prepared("shop", home)
                opened.verify()
                seen.append(opened.manifest.files)

        monkeypatch.setattr(publish, name, observe)

    for name in ("add_folder", "write_manifest", "remove_folder"):
        observed(name)
    again = prepare(card, home=home, force=True)
    old, new = first.manifest.files, again.manifest.files
    assert seen == [old, old, old, new, new, new]


@pytest.mark.parametrize("step", ["add_folder", "write_manifest", "remove_folder"])
def test_a_crash_during_the_replacement_leaves_a_dataset_and_no_lasting_files(
    card: DatasetCard, home: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(card, home=home)
    with monkeypatch.context() as patch:
        patch.setattr(publish, step, Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(card, home=home, force=True)
    open_prepared("shop", home).verify()
    again = prepare(card, home=home, force=True)
    assert sorted(path.name for path in again.root.iterdir()) == [again.manifest.files, "manifest.json"]


def test_a_second_process_waits_and_finds_the_dataset_prepared(card: DatasetCard, home: Path) -> None:
    phases: list[str] = []
    make_old(card)
    first = prepare(card, home=home)
    first.root.rename(home / "hidden")
    with ThreadPoolExecutor(1) as pool, lock(dataset_folder("shop", home), lambda: None):
        second = pool.submit(prepare, card, home=home, progress=lambda phase, _: phases.append(phase))
        while not phases:
            time.sleep(0.01)
        (home / "hidden").rename(first.root)
    assert second.result().manifest == first.manifest
    assert phases == [WAITING]


@pytest.mark.parametrize(
    "file", ["shards/dev-00000.parquet", "vocabulary/city.parquet", "domains/city.parquet"]
)
def test_a_damaged_file_is_named(card: DatasetCard, home: Path, file: str) -> None:
    prepared = prepare(card, home=home)
    path = prepared.folder / file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=rf"damaged: .*{file}.*ctrbench prepare shop.toml --force"):
        prepare(card, home=home)
    prepare(card, home=home, force=True).verify()


def test_a_missing_shard_is_named(card: DatasetCard, home: Path) -> None:
    (prepare(card, home=home).folder / "shards/test-00000.parquet").unlink()
    with pytest.raises(DataError, match=r"missing: .*shards/test-00000.parquet"):
        prepare(card, home=home)


def test_given_sources_replace_those_of_the_card(card: DatasetCard, home: Path, tmp_path: Path) -> None:
    moved = Path(card.path or "").rename(tmp_path / "moved.csv")
    prepared = prepare(card, home=home, sources=[moved])
    assert [source.name for source in prepared.manifest.sources] == ["moved.csv"]
    assert prepared.manifest.command == f"ctrbench prepare shop.toml --source {moved}"


def test_domains_add_a_domain_set(card: DatasetCard, home: Path) -> None:
    prepared = prepare(card, home=home, domains=("device",))
    assert prepared.domain_table("device")["rows_train"].to_list() == [0, 5, 3]


# --- errors ---


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


class FullDisk:
    """Replaces a function and raises the error of a full disk at the n-th call."""

    def __init__(self, function: Callable[..., object], fails_at: int) -> None:
        self.function, self.calls_left = function, fails_at

    def __call__(self, *arguments: object, **named: object) -> object:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.function(*arguments, **named)


@pytest.mark.parametrize(("owner", "name"), [(staging, "append_values"), (shards.pq, "write_table")])
@pytest.mark.parametrize("fails_at", [1, 4])
def test_a_full_disk_leaves_nothing(
    card: DatasetCard,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    fails_at: int,
) -> None:
    monkeypatch.setattr(owner, name, FullDisk(getattr(owner, name), fails_at))
    with pytest.raises(DataError, match=r"no space left on the disk: .*home.*CTRBENCH_HOME"):
        prepare(card, home=home)
    assert is_empty(home)


@pytest.mark.parametrize("phase", ["read", "encode", "write"])
def test_an_interrupt_leaves_the_previous_dataset(
    card: DatasetCard, make_card: MakeCard, frame: pl.DataFrame, home: Path, phase: str
) -> None:
    first = prepare(card, home=home)

    def interrupt(current: str, _done: float) -> None:
        if current == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(make_card(frame.head(11)), home=home, progress=interrupt)
    assert sorted(path.name for path in (home / "datasets").iterdir()) == [".shop.lock", "shop"]
    assert [path.name for path in first.root.iterdir() if path.is_dir()] == [first.manifest.files]
    first.verify()


def test_progress_of_each_phase_ends_at_one(card: DatasetCard, home: Path) -> None:
    calls: list[tuple[str, float]] = []
    prepare(card, home=home, progress=lambda phase, done: calls.append((phase, done)))
    assert list(dict.fromkeys(phase for phase, _ in calls)) == ["read", "encode", "write"]
    assert dict(calls) == {"read": 1.0, "encode": 1.0, "write": 1.0}
    assert all(0 <= done <= 1 for _, done in calls)


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
