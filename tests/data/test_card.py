from __future__ import annotations

from pathlib import Path

import pytest

from ctrbench.data.card import DatasetCard, bundled_cards, load_card, read_card
from ctrbench.errors import CardError, SettingError

CARD = """
name = "shop"
title = "A shop"
path = "data/shop.csv"
representative = "city"
[label]
column = "click"
[domain_sets]
default = ["city"]
[[fields]]
name = "city"
role = "user"
[[fields]]
name = "tags"
kind = "multi_valued"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "shop.toml"
    path.write_text(text)
    return path


def fails(folder: Path, text: str, match: str) -> None:
    with pytest.raises(CardError, match=match):
        read_card(write(folder, text))


def test_a_relative_path_starts_at_the_folder_of_the_card(tmp_path: Path) -> None:
    card = read_card(write(tmp_path, CARD))
    assert card.path == str(tmp_path / "data" / "shop.csv")
    assert card.origin == tmp_path / "shop.toml"


def test_without_timestamp_rows_are_split_by_a_hash(tmp_path: Path) -> None:
    card = read_card(write(tmp_path, CARD))
    assert (card.split.by, card.split.parts) == ("hash", (4, 1, 1))
    timed = read_card(write(tmp_path, 'timestamp = "time"\n' + CARD))
    assert timed.split.by == "time"


def test_the_digest_depends_on_the_content_but_not_on_the_location(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    card, moved = (
        read_card(write(tmp_path, CARD)),
        read_card(write(tmp_path / "other", "# elsewhere\n" + CARD)),
    )
    assert card.path != moved.path
    assert card.digest == moved.digest
    changed = CARD.replace('"user"', '"item"')
    assert read_card(write(tmp_path, changed)).digest != card.digest


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    fails(tmp_path, "timestmp = 'x'\n" + CARD, r"unknown key: timestmp in .*did you mean 'timestamp'")
    fails(tmp_path, CARD + "rol = 'user'\n", r"unknown key: fields.1.rol in .*did you mean 'role'")


def test_all_problems_are_reported_at_once_misspelled_keys_first(tmp_path: Path) -> None:
    text = CARD.replace("title", "titel").replace('column = "click"', "").replace("multi_valued", "many")
    fails(
        tmp_path,
        text,
        r"shop.toml has 3 problems\n  - unknown key: titel. did you mean 'title'.\n"
        r"  - missing key: label.column\n  - fields.1.kind must be .*: 'many'",
    )


def test_all_contradictions_are_reported_at_once(tmp_path: Path) -> None:
    text = 'user = "tags"\nsplit = { by = "time" }\n' + CARD.replace('["city"]', '["citty"]')
    fails(
        tmp_path,
        text,
        r"has 3 problems\n  - split.by = 'time' requires timestamp.*\n  - the user field .*\n.*citty",
    )


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    fails(
        tmp_path,
        CARD.replace("multi_valued", "multivalued"),
        r"fields.1.kind must be .*'multi_valued'.*: 'multivalued' in",
    )


def test_a_domain_feature_must_be_a_field(tmp_path: Path) -> None:
    fails(tmp_path, CARD.replace('["city"]', '["citty"]'), r"no such field: citty.*did you mean 'city'")


def test_a_domain_feature_has_one_id_per_row(tmp_path: Path) -> None:
    fails(tmp_path, CARD.replace('["city"]', '["tags"]'), r"one id per row: tags is multi_valued")


def test_a_default_domain_set_is_required(tmp_path: Path) -> None:
    fails(tmp_path, CARD.replace("default =", "other ="), "a set named 'default'")


def test_the_name_of_a_domain_set_is_a_valid_file_name(tmp_path: Path) -> None:
    fails(
        tmp_path,
        CARD.replace("default =", 'default = ["city"]\n"../x" ='),
        "domain_sets.*must consist of 1 to 100 letters",
    )


def test_duplicate_fields_are_refused(tmp_path: Path) -> None:
    fails(tmp_path, CARD.replace('"tags"', '"city"'), "duplicate field: city")


@pytest.mark.parametrize("name", ["label", "row", "time", "probability", "domain", "key", "rows_dev"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    fails(tmp_path, CARD.replace('"tags"', f'"{name}"'), rf"must not be reserved.*set column = '{name}'")


def test_only_numeric_fields_have_buckets(tmp_path: Path) -> None:
    fails(tmp_path, CARD + "buckets = 5\n", "only numeric fields have buckets")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('"multi_valued"', '"numeric"\nmin_count = 2', "numeric fields have no min_count"),
        ('role = "user"', "max_length = 3", "only multi_valued and sequence fields have max_length"),
        ('role = "user"', 'separator = ";"', "only multi_valued and sequence fields have a separator"),
        ('path = "data/shop.csv"', 'reader = "movielens"\nseparator = ";"', "fixed separator: movielens"),
        ('path = "data/shop.csv"', 'separator = "::"', "separator must be one ASCII character"),
    ],
)
def test_a_setting_without_effect_is_refused(tmp_path: Path, old: str, new: str, match: str) -> None:
    fails(tmp_path, CARD.replace(old, new), match)


SEQUENCE = '"sequence"\ntarget = "city"'


def test_a_sequence_may_have_a_target(tmp_path: Path) -> None:
    card = read_card(write(tmp_path, CARD.replace('"multi_valued"', SEQUENCE)))
    city, tags = card.fields
    assert card.target_of(tags) == city
    assert card.target_of(city) is None


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('"multi_valued"', '"multi_valued"\ntarget = "city"', "only sequence fields have a target"),
        ('"multi_valued"', SEQUENCE.replace("city", "citty"), "no such field: citty"),
        (
            '"multi_valued"',
            SEQUENCE.replace("city", "tags"),
            "target of a sequence must be categorical: tags of tags is sequence",
        ),
        ('"multi_valued"', f"{SEQUENCE}\nmin_count = 2", "min_count is set on the target"),
    ],
)
def test_a_target_is_another_field_with_one_id_per_row(
    tmp_path: Path, old: str, new: str, match: str
) -> None:
    fails(tmp_path, CARD.replace(old, new), match)


def test_a_split_by_time_needs_a_timestamp(tmp_path: Path) -> None:
    fails(tmp_path, 'split = { by = "time" }\n' + CARD, "requires timestamp")


def test_a_source_has_exactly_one_kind(tmp_path: Path) -> None:
    source = '[[sources]]\nurl = "https://example.org/a.zip"\npypi = "a==1"\n'
    fails(tmp_path, CARD + source, "exactly one of url, pypi and local")


def test_invalid_toml_is_refused(tmp_path: Path) -> None:
    fails(tmp_path, "name: shop", "a card must be a valid TOML file")


def test_a_missing_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"no such card: .*ctrbench card DATA.csv"):
        read_card(tmp_path / "none.toml")


def test_an_unknown_dataset_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingError, match=r"no such dataset: movielens-1.*did you mean 'movielens-1m'"):
        load_card("movielens-1")


def test_all_bundled_cards_load_under_their_own_names() -> None:
    cards = {name: load_card(name) for name in bundled_cards()}
    assert {"movielens-1m", "iaac", "iaac-round1"} <= set(cards)
    assert all(card.name == name and isinstance(card, DatasetCard) for name, card in cards.items())


def test_a_domain_feature_keeps_rare_values(tmp_path: Path) -> None:
    fails(tmp_path, CARD.replace('role = "user"', "min_count = 2"), "must not have min_count")


def test_a_card_with_a_generator_has_no_reader_and_no_path(tmp_path: Path) -> None:
    fails(tmp_path, 'generator = "production"\n' + CARD, "no reader, no sources and no path")


def test_a_production_card_of_an_earlier_manifest_has_the_same_digest() -> None:
    card = load_card("production")
    earlier = {"reader": "production"} | card.model_dump(mode="json", exclude={"reader", "generator"})
    assert DatasetCard.model_validate(earlier).model_dump() == card.model_dump()
    assert DatasetCard.model_validate(earlier).digest == card.digest
