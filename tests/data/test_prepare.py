from __future__ import annotations

import gzip
import json
import platform
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctrbench.data import shards, staging
from ctrbench.data.card import DatasetCard
from ctrbench.data.load import load_split
from ctrbench.data.manifest import write_checksummed
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.data.summary import summarize
from ctrbench.errors import DataError
from ctrbench.names import Split

MakeCard = Callable[..., DatasetCard]


def column(prepared: Prepared, split: Split, name: str) -> list[Any]:
    return prepared.read(split, [name]).column(name).to_pylist()


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


def test_user_keys_tell_users_apart_that_have_no_training_row(
    tmp_path: Path, write_tiny: Callable[..., DatasetCard]
) -> None:
    users = ["a", "b", "a", "b", "c", "d", "c", "d", "x", "a", "y", "x"]
    columns = {"time": range(12), "shop": ["s"] * 12, "user": users, "click": [0, 1] * 6}
    card = write_tiny(tmp_path, columns).model_copy(update={"user": "user"})
    prepared = prepare(card, home=tmp_path / "home")
    assert prepared.manifest.has_user_key
    assert column(prepared, Split.TEST, "user") == [0, 0]
    keys = {split: column(prepared, split, "user_key") for split in Split}
    assert keys[Split.DEV] == [keys[Split.TEST][1], keys[Split.TRAIN][0]]
    assert len({*keys[Split.TRAIN], *keys[Split.DEV], *keys[Split.TEST]}) == 6
    test = load_split(prepared, Split.TEST, domain_set="default", indicator="shop")
    assert test.user_key is not None
    assert test.user_key.tolist() == keys[Split.TEST]


def test_data_without_a_user_field_have_no_user_keys(card: DatasetCard, home: Path) -> None:
    prepared = prepare(card.model_copy(update={"user": None}), home=home)
    assert not prepared.manifest.has_user_key
    assert load_split(prepared, Split.TEST, domain_set="default", indicator="all").user_key is None


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
    graded = frame.with_columns(pl.col("time").mod(4).alias("stars"))
    card = make_card(graded, label={"column": "stars", "positive_from": 2})
    assert column(prepare(card, home=home), Split.TRAIN, "label") == [0, 1, 1, 0, 0, 1, 1, 0]


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
    with pytest.raises(DataError, match=r"a timestamp must be .*'2024-02-00' in .*data.csv, line 9"):
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
    write_checksummed(folder / "manifest.json", manifest | {"note": "kept"})
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


def test_given_sources_replace_those_of_the_card(card: DatasetCard, home: Path, tmp_path: Path) -> None:
    moved = Path(card.path or "").rename(tmp_path / "moved.csv")
    prepared = prepare(card, home=home, sources=[moved])
    assert [source.name for source in prepared.manifest.sources] == ["moved.csv"]
    assert prepared.manifest.command == f"ctrbench prepare shop.toml --source {moved}"


def test_domains_add_a_domain_set(card: DatasetCard, home: Path) -> None:
    prepared = prepare(card, home=home, domains=("device",))
    assert prepared.domain_table("device")["rows_train"].to_list() == [0, 5, 3]


def test_progress_of_each_phase_ends_at_one(card: DatasetCard, home: Path) -> None:
    calls: list[tuple[str, float]] = []
    prepare(card, home=home, progress=lambda phase, done: calls.append((phase, done)))
    assert list(dict.fromkeys(phase for phase, _ in calls)) == ["read", "encode", "write"]
    assert dict(calls) == {"read": 1.0, "encode": 1.0, "write": 1.0}
    assert all(0 <= done <= 1 for _, done in calls)


def test_unfinished_work_of_killed_processes_is_removed(card: DatasetCard, home: Path) -> None:
    """Also if nothing has changed, so that nothing is written."""
    folder = prepare(card, home=home).root
    name = f"{platform.node().replace('.', '-')}.{2**22 + 1}.part"
    leftovers = [folder.with_name(f".toy.{name}"), folder / f".manifest.json.{name}"]
    for leftover in leftovers:
        leftover.mkdir()
    prepare(card, home=home)
    assert not any(leftover.exists() for leftover in leftovers)
