from __future__ import annotations

from pathlib import Path

import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.errors import DataError, SettingError
from ctrbench.names import Split


@pytest.fixture
def prepared(card: DatasetCard, home: Path) -> Prepared:
    return prepare(card, home=home)


def test_columns_are_read_in_the_requested_order(prepared: Prepared) -> None:
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


def test_an_unknown_domain_set_is_refused_with_the_nearest_one(prepared: Prepared) -> None:
    with pytest.raises(SettingError, match=r"no such domain set: defualt.*did you mean 'default'"):
        prepared.domain_table("defualt")


def test_a_new_domain_set_is_counted_in_the_shards_and_stored(prepared: Prepared, home: Path) -> None:
    more, name = prepared.ensure_domains(("device", "city"))
    assert name == "device,city"
    assert more.domain_table(name)["key"].to_list() == ["unseen", "m · A", "w · A", "m · B", "m · C", "w · B"]
    assert more.manifest.domain_sets[name].rows_unseen == {Split.TRAIN: 0, Split.DEV: 1, Split.TEST: 2}
    assert open_prepared("shop", home).manifest == more.manifest
    assert more.manifest.content_digest == prepared.manifest.content_digest


def test_an_existing_domain_set_keeps_its_name(prepared: Prepared) -> None:
    same, name = prepared.ensure_domains(("city", "device"))
    assert name == "default"
    assert same.manifest == prepared.manifest


def test_domain_sets_added_by_two_processes_are_both_stored(prepared: Prepared, home: Path) -> None:
    prepared.ensure_domains(("device",))
    # With the manifest that was read before the other process added its set.
    prepared.ensure_domains(("device", "city"))
    assert {"device", "device,city"} <= set(open_prepared(prepared.manifest.name, home).manifest.domain_sets)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"sha256": ""}', "\x00"])
def test_a_damaged_added_domain_set_is_added_again(prepared: Prepared, home: Path, content: str) -> None:
    more, name = prepared.ensure_domains(("device", "city"))
    (file,) = (home / "datasets").glob("*/*/added/*.json")
    file.write_text(content)
    opened = open_prepared("shop", home)
    assert name not in opened.manifest.domain_sets
    assert opened.ensure_domains(("device", "city"))[0].manifest == more.manifest


def test_a_list_cannot_be_a_domain_feature(prepared: Prepared) -> None:
    with pytest.raises(SettingError, match=r"one id per row: tags is multi_valued"):
        prepared.ensure_domains(("tags",))


def test_an_unknown_dataset_is_refused_with_the_nearest_one(prepared: Prepared, home: Path) -> None:
    with pytest.raises(DataError, match=r"no such prepared dataset: shopp.*did you mean 'shop'"):
        open_prepared("shopp", home)


def test_a_dataset_with_a_damaged_manifest_is_prepared_again(
    prepared: Prepared, card: DatasetCard, home: Path
) -> None:
    (prepared.root / "manifest.json").write_text("{}")
    prepare(card, home=home)
    assert open_prepared("shop", home).manifest.content_digest == prepared.manifest.content_digest


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("movielens-1m", "prepare it with: ctrbench prepare movielens-1m"),
        ("iaac-twin", "prepare it with: ctrbench prepare iaac --source TWIN_FOLDER"),
        ("ours", "ctrbench prepare CARD.toml"),
    ],
)
def test_an_unprepared_dataset_is_refused_with_a_valid_command(
    tmp_path: Path, name: str, remedy: str
) -> None:
    with pytest.raises(DataError, match=remedy):
        open_prepared(name, tmp_path)
