from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.home import home_folder, latest_prepared, prepared_names
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.data.shards import ContentDigest
from ctrbench.errors import DataError, SettingError
from ctrbench.names import Split


@pytest.fixture
def prepared(card: DatasetCard, home: Path) -> Prepared:
    return prepare(card, home=home)


def test_columns_are_read_in_the_order_asked_for(prepared: Prepared) -> None:
    assert prepared.read(Split.DEV, ["time", "label"]).to_pylist() == [
        {"time": 9, "label": 0},
        {"time": 10, "label": 1},
    ]


def test_a_damaged_shard_is_named_when_it_is_read(prepared: Prepared) -> None:
    path = prepared.folder / "shards/train-00000.parquet"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged: .*train-00000.parquet.*prepare shop.toml --force"):
        prepared.read(Split.TRAIN)


def test_domain_ids_of_rows(prepared: Prepared) -> None:
    train, test = (prepared.read(split, ["city", "device"]) for split in (Split.TRAIN, Split.TEST))
    # The pairs of city and device by rows: A m 3, A w 2, then B m, B w, C m.
    assert prepared.domain_ids(train).tolist() == [1, 2, 3, 1, 4, 5, 2, 1]
    assert prepared.domain_ids(test).tolist() == [0, 0]
    assert prepared.domain_ids(train, "city").tolist() == [1, 1, 2, 1, 2, 3, 1, 1]


def test_an_unknown_domain_set_is_told_from_the_known(prepared: Prepared) -> None:
    with pytest.raises(SettingError, match=r"no such domain set: defualt.*did you mean 'default'"):
        prepared.domain_table("defualt")


def test_an_unknown_field_is_told_from_the_known(prepared: Prepared) -> None:
    with pytest.raises(SettingError, match=r"no such field: devices.*did you mean 'device'"):
        prepared.manifest.field("devices")


def test_a_new_feature_set_is_made_from_the_shards_and_kept(prepared: Prepared, home: Path) -> None:
    more, name = prepared.ensure_domains(("device", "city"))
    assert name == "device,city"
    assert more.domain_table(name)["key"].to_list() == ["unseen", "m · A", "w · A", "m · B", "m · C", "w · B"]
    assert more.manifest.domain_sets[name].rows_unseen == {Split.TRAIN: 0, Split.DEV: 1, Split.TEST: 2}
    assert open_prepared("shop", home).manifest == more.manifest
    assert more.manifest.content_digest == prepared.manifest.content_digest


def test_a_feature_set_that_is_there_keeps_its_name(prepared: Prepared) -> None:
    same, name = prepared.ensure_domains(("city", "device"))
    assert name == "default"
    assert same.manifest == prepared.manifest


def test_two_new_feature_sets_by_two_readers_are_both_kept(prepared: Prepared) -> None:
    prepared.ensure_domains(("device",))
    more, _ = prepared.ensure_domains(("device", "city"))
    assert {"device", "device,city"} <= set(more.manifest.domain_sets)


def test_a_list_cannot_be_a_domain_feature(prepared: Prepared) -> None:
    with pytest.raises(SettingError, match=r"one id per row .*tags is multi_valued"):
        prepared.ensure_domains(("tags",))


def test_an_unknown_dataset_says_how_to_prepare_it(prepared: Prepared, home: Path) -> None:
    with pytest.raises(DataError, match=r"no such prepared dataset: shopp.*did you mean 'shop'"):
        open_prepared("shopp", home)


def test_nothing_prepared_at_all(home: Path) -> None:
    assert prepared_names(home) == []
    with pytest.raises(DataError, match=r"no dataset is prepared.*ctrbench prepare movielens-1m"):
        latest_prepared(home)


def test_the_dataset_prepared_last(prepared: Prepared, card: DatasetCard, home: Path) -> None:
    other = prepare(card.model_copy(update={"name": "alike"}), home=home)
    os.utime(prepared.folder / "manifest.json", ns=(0, 0))
    assert prepared_names(home) == ["alike", "shop"]
    assert latest_prepared(home) == other.manifest.name == "alike"


def test_a_manifest_of_a_newer_schema(prepared: Prepared, home: Path) -> None:
    path = prepared.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99, "novelty": 1}))
    with pytest.raises(DataError, match=r"unsupported schema version 99 .*expected 1.*update ctrbench"):
        open_prepared("shop", home)


def test_a_manifest_cut_short(prepared: Prepared, home: Path) -> None:
    path = prepared.folder / "manifest.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError, match=r"damaged manifest: .*prepare shop --force"):
        open_prepared("shop", home)


def test_what_cannot_be_opened_is_prepared_anew(prepared: Prepared, card: DatasetCard, home: Path) -> None:
    (prepared.folder / "manifest.json").write_text("{}")
    prepare(card, home=home)
    assert open_prepared("shop", home).manifest.content_digest == prepared.manifest.content_digest


def test_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path))
    assert home_folder() == tmp_path
    monkeypatch.delenv("CTRBENCH_HOME")
    assert home_folder().name == "ctrbench"


def test_a_content_digest_tells_lists_of_equal_values_apart() -> None:
    digests = set()
    for lists in ([[1], [2]], [[1, 2], []], [[], [1, 2]]):
        digest = ContentDigest()
        digest.update(pa.table({"x": pa.array(lists, pa.list_(pa.int32()))}))
        digests.add(digest.hexdigest({Split.TRAIN: 2}, []))
    assert len(digests) == 3


def test_a_content_digest_does_not_see_where_tables_end() -> None:
    table = pa.table(
        {"x": np.arange(10), "y": pa.array([[i] * (i % 3) for i in range(10)], pa.list_(pa.int32()))}
    )
    whole, parts = ContentDigest(), ContentDigest()
    whole.update(table)
    for start in range(0, 10, 3):
        parts.update(table.slice(start, 3))
    assert whole.hexdigest({}, []) == parts.hexdigest({}, [])


def test_shards_written_side_by_side_stay_in_order(
    card: DatasetCard, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.data.shards.SHARD_ROWS", 1)
    prepared = prepare(card, home=home)
    assert prepared.read(Split.TRAIN, ["time"])["time"].to_pylist() == list(range(1, 9))
    names = [shard.file for shard in prepared.manifest.splits[Split.DEV].shards]
    assert names == ["shards/dev-00000.parquet", "shards/dev-00001.parquet"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("movielens-1m", "prepare it with: ctrbench prepare movielens-1m"),
        ("iaac-twin", "prepare it with: ctrbench prepare iaac --source TWIN_FOLDER"),
        ("ours", "ctrbench prepare CARD.toml"),
    ],
)
def test_what_is_not_prepared_is_refused_with_a_command_that_exists(
    tmp_path: Path, name: str, remedy: str
) -> None:
    with pytest.raises(DataError, match=remedy):
        open_prepared(name, tmp_path)
