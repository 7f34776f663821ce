from itertools import pairwise

import pytest

from ctrbench.data.card import bundled_cards, load_card
from ctrbench.readers import iaac

NAMES = ("iaac", "iaac-round1", "movielens-1m", "movielens-1m-history", "production")
NESTED = ("age", "gender", "occupation", "zip")


def test_the_package_contains_these_cards() -> None:
    assert set(NAMES) <= set(bundled_cards())


@pytest.mark.parametrize("name", sorted(bundled_cards()))
def test_a_card_loads_and_has_the_name_of_its_file(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert card.sources or card.generator == "production"


@pytest.mark.parametrize("name", sorted(bundled_cards()))
def test_the_label_is_not_a_field(name: str) -> None:
    card = load_card(name)
    assert card.label.column not in {field.source_column for field in card.fields}


@pytest.mark.parametrize("name", ["iaac", "iaac-round1"])
def test_an_iaac_card_has_every_feature_of_the_raw_format(name: str) -> None:
    derived = {"hour", "predicted_categories", "predicted_properties"}
    dropped = {"instance_id", "context_id", iaac.TIMESTAMP, iaac.PREDICTED, iaac.LABEL}
    assert {field.name for field in load_card(name).fields} == set(iaac.COLUMNS) - dropped | derived


def test_the_iaac_cards_differ_only_in_their_files() -> None:
    both, first = load_card("iaac"), load_card("iaac-round1")
    assert both.sources[0].local == (iaac.ROUND1_FILE, iaac.ROUND2_FILE)
    assert first.sources[0].local == (iaac.ROUND1_FILE,)
    assert (both.fields, both.domain_sets, both.label) == (first.fields, first.domain_sets, first.label)


@pytest.mark.parametrize("name", ["iaac", "iaac-round1"])
def test_an_iaac_card_explains_how_to_get_data_or_a_twin(name: str) -> None:
    note = load_card(name).sources[0].note
    for part in (
        "tianchi.aliyun.com/dataset/147588",
        "login",
        iaac.ROUND1_FILE,
        "--source PATH",
        "ctrbench synth iaac",
    ):
        assert part in note


def test_the_card_with_histories_adds_one_field() -> None:
    plain, with_history = load_card("movielens-1m"), load_card("movielens-1m-history")
    history = with_history.field("history")
    assert (history.kind, history.target, history.max_length) == ("sequence", "item", 20)
    assert tuple(field for field in with_history.fields if field != history) == plain.fields
    own = {"name", "title", "description", "fields"}
    assert with_history.model_dump(exclude=own) == plain.model_dump(exclude=own)


def test_movielens_has_nested_domain_sets() -> None:
    sets = load_card("movielens-1m").domain_sets
    assert sets["default"] == ("gender", "age", "occupation")
    nested = [set(sets["-".join(NESTED[:number])]) for number in range(1, 5)]
    assert [len(features) for features in nested] == [1, 2, 3, 4]
    assert all(smaller < larger for smaller, larger in pairwise(nested))
