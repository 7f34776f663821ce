"""Columns of generated rows: determinism, fields, time, domains, users, items and behaviors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrbench.errors import SettingError
from ctrbench.names import Column
from ctrbench.synthetic.philox import uniforms, words
from ctrbench.synthetic.production.block import BLOCK_ROWS
from ctrbench.synthetic.production.clicks import ClickBlock
from ctrbench.synthetic.production.distributions import traffic_before
from ctrbench.synthetic.production.generator import (
    CATEGORY_SEQUENCE,
    DOMAIN_FEATURES,
    DOMAIN_INDEX,
    ITEM_NEGATIVES,
    ITEM_SEQUENCE,
    Production,
)
from ctrbench.synthetic.production.streams import Stream
from ctrbench.synthetic.production.world import make_world

Columns = dict[str, np.ndarray]
DAY = 86_400


def shares(values: np.ndarray) -> np.ndarray:
    return np.bincount(values) / len(values)


# --- determinism ---------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(start=st.integers(0, 199_999), size=st.integers(0, 2 * BLOCK_ROWS))
def test_any_range_is_a_slice_of_all_rows(unit: Production, columns: Columns, start: int, size: int) -> None:
    stop = min(start + size, unit.spec.rows)
    for name, values in unit.rows(start, stop).items():
        assert np.array_equal(values, columns[name][start:stop]), name


def test_column_is_independent_of_the_other_requested_columns(unit: Production, columns: Columns) -> None:
    for name in unit.columns:
        assert np.array_equal(unit.rows(70_000, 70_100, [name])[name], columns[name][70_000:70_100]), name


def test_domains_are_generated_without_users_and_items(unit: Production) -> None:
    block = unit.block(0, 10)
    assert len(block.domain) == 10
    assert not {"user", "slots", "category_and_item", "_contents", "match"} & set(vars(block))


def test_rows_of_different_seeds_differ(unit: Production, make: Callable[..., Production]) -> None:
    names = [field.name for field in unit.fields if field.num_ids > 10 and field.name != "hour"]
    first, second = unit.rows(0, 5_000, names), make(seed=1).rows(0, 5_000, names)
    assert [name for name in names if (first[name] == second[name]).mean() > 0.5] == []


def test_rows_outside_the_dataset_are_refused(unit: Production) -> None:
    with pytest.raises(SettingError, match="200,001"):
        unit.rows(0, unit.spec.rows + 1)


def test_unknown_column_is_refused(unit: Production) -> None:
    with pytest.raises(SettingError, match="user_profile"):
        unit.rows(0, 1, ["user_profil"])


def test_shards_cover_all_rows(make: Callable[..., Production]) -> None:
    production = make(shard_rows=80_000)
    assert [production.shard(k) for k in range(production.num_shards)] == [
        (0, 80_000),
        (80_000, 160_000),
        (160_000, 200_000),
    ]
    with pytest.raises(SettingError, match="3 of 3"):
        production.shard(3)


# --- fields --------------------------------------------------------------------------------------------------------


def test_ids_run_from_1_to_num_ids(unit: Production, columns: Columns) -> None:
    for field in unit.fields:
        if field.kind == "categorical":
            may_be_unseen = field.name in (*DOMAIN_FEATURES, "weekday")
            assert columns[field.name].min() >= (0 if may_be_unseen else 1), field
            assert columns[field.name].max() <= field.num_ids, field


def test_column_types(columns: Columns) -> None:
    names = ("row", "time", "label", "probability", "item_ctr", "city")
    assert [columns[name].dtype.name for name in names] == [
        "int64",
        "int64",
        "int8",
        "float64",
        "float32",
        "int32",
    ]


def test_sequences_are_fields_on_request(unit: Production, make: Callable[..., Production]) -> None:
    extra = make(sequences=True).fields[len(unit.fields) :]
    assert {field.name: field.target for field in extra} == {
        ITEM_SEQUENCE: "item_id",
        CATEGORY_SEQUENCE: "category",
    }


@pytest.mark.parametrize(
    ("entity", "features"),
    [
        (
            "user_id",
            "gender age level user_profile city device noise_1 noise_2 noise_3 noise_4 user_activity",
        ),
        ("item_id", "category brand shop price_level creative_type item_ctr content_1 content_6"),
    ],
)
def test_features_of_an_entity_are_constant(columns: Columns, entity: str, features: str) -> None:
    # Hence features contain no information from dev or test days.
    frame = pl.DataFrame({name: columns[name] for name in (entity, *features.split())})
    assert frame.n_unique() == frame[entity].n_unique()


def test_profile_combines_gender_age_and_level(columns: Columns) -> None:
    gender, age, level = (columns[name].astype(int) - 1 for name in ("gender", "age", "level"))
    profile = columns["user_profile"]
    assert np.array_equal(profile[profile > 0], ((gender * 8 + age) * 4 + level + 1)[profile > 0])


def test_values_absent_from_training_are_encoded_as_0(unit: Production, columns: Columns) -> None:
    """Values of domain features that occur only in reserved tuples, and weekdays after the training days."""
    train = slice(0, unit.cuts[0])
    for name in (*DOMAIN_FEATURES, "weekday"):
        assert columns[name][train].min() >= 1
        assert set(columns[name]) - set(columns[name][train]) <= {0}


def test_numeric_fields_are_standardized_over_entities(columns: Columns) -> None:
    for entity, name in (("item_id", "item_ctr"), ("user_id", "user_activity")):
        frame = pl.DataFrame({"id": columns[entity], "value": columns[name]}).unique()
        error = 1 / np.sqrt(frame.height)
        assert abs(frame["value"].mean()) < 5 * error + 0.02
        assert abs(frame["value"].std() - 1) < 5 * error + 0.03  # type: ignore[operator]


def test_brand_has_one_category(columns: Columns) -> None:
    frame = pl.DataFrame({name: columns[name] for name in ("brand", "category")})
    assert frame.n_unique() == frame["brand"].n_unique()


def test_noise_features_are_uniform(columns: Columns) -> None:
    frame = pl.DataFrame({name: columns[name] for name in ("user_id", "noise_1")}).unique()
    assert np.abs(shares(frame["noise_1"].to_numpy())[1:] - 0.2).max() < 4 * np.sqrt(0.16 / frame.height)


def test_estimated_item_ctr_correlates_with_the_level(columns: Columns) -> None:
    assert np.corrcoef(columns["item_ctr"], columns["component_level"])[0, 1] > 0.4


# --- time and domain -----------------------------------------------------------------------------------------------


def test_rows_are_ordered_by_time_with_equal_rows_per_day(unit: Production, columns: Columns) -> None:
    time = columns[Column.TIME]
    assert np.diff(time).min() >= 0
    assert np.ptp(np.bincount(time // DAY)) <= 1
    assert np.searchsorted(time, [4 * DAY, 5 * DAY]).tolist() == list(unit.cuts)
    assert (columns["hour"] == time % DAY // 3_600 + 1).all()
    day = time // DAY
    assert (columns["weekday"] == np.where(day < 4, day + 1, 0)).all()


def test_times_follow_the_traffic_of_the_day(unit: Production, columns: Columns) -> None:
    # Row r lies at the fraction (r + 1/2) / rows: its second starts before that share of traffic, the next one after.
    rows = np.array([0, 1_000, 150_001, 199_999])
    day, second = np.divmod(columns[Column.TIME][rows], DAY)
    share = (rows + 0.5) / unit.spec.rows * 6 - day
    assert (traffic_before(second / 3_600) <= share + 1e-9).all()
    assert (traffic_before((second + 1) / 3_600) >= share - 1e-9).all()


def test_rows_per_domain_follow_the_traffic(unit: Production, columns: Columns) -> None:
    counts = np.bincount(columns[DOMAIN_INDEX], minlength=90)
    expected = unit.domains.share * (counts.sum() - counts[50:].sum())
    chi = ((counts - expected)[:50] ** 2 / expected[:50]).sum()
    assert abs(chi - 49) < 5 * np.sqrt(2 * 49)


def test_domain_features_match_the_domain_index(unit: Production, columns: Columns) -> None:
    for name in DOMAIN_FEATURES:
        assert np.array_equal(unit.domains.features[name][columns[DOMAIN_INDEX]], columns[name])


def test_reserved_tuples_appear_on_the_last_day_only(unit: Production, columns: Columns) -> None:
    is_reserved = unit.domains.is_reserved[columns[DOMAIN_INDEX]]
    assert columns[Column.ROW][is_reserved].min() >= unit.cuts[1]
    rows = unit.spec.rows - unit.cuts[1]
    assert abs(is_reserved.sum() - 0.001 * rows) < 4 * np.sqrt(0.001 * rows)


def test_reserved_tuples_appear_in_the_last_sixth_of_12_days(make: Callable[..., Production]) -> None:
    production = make(days=12)
    domain = production.rows(0, production.spec.rows, [DOMAIN_INDEX])[DOMAIN_INDEX]
    assert np.flatnonzero(production.domains.is_reserved[domain]).min() >= production.cuts[1]


def test_scenario_shares_follow_the_time_of_day(unit: Production, columns: Columns) -> None:
    mix = make_world(unit.spec).traffic.mix
    ids = make_world(unit.spec).ids.scenario
    largest = int(np.bincount(columns["scenario"]).argmax())
    rank = int(np.flatnonzero(ids == largest)[0])
    expected = np.diff(mix, axis=1, prepend=0)[:, rank]
    second = columns[Column.TIME] % DAY
    for bucket in (0, 100, 200):
        is_inside = second // 300 == bucket
        share = (columns["scenario"][is_inside] == largest).mean()
        assert abs(share - expected[bucket]) < 4 * np.sqrt(0.25 / is_inside.sum())


# --- users and items -----------------------------------------------------------------------------------------------


def test_users_per_profile_are_proportional_to_traffic(unit: Production) -> None:
    world = make_world(unit.spec)
    share = np.bincount(world.domains.profile, world.domains.share, minlength=96)
    assert np.abs(np.diff(world.traffic.user_start) - share * unit.spec.num_users).max() < 96


def test_user_activity_has_density_rank_to_minus_0_6(unit: Production) -> None:
    # Rank k of n has density k^-0.6, whose integral is k^0.4.
    block, world = unit.block(0, 200_000), make_world(unit.spec)
    largest = int(np.bincount(block.profile).argmax())
    first, end = world.traffic.user_start[largest : largest + 2]
    counts = np.bincount(block.user[block.profile == largest] - first, minlength=end - first)
    expected = np.diff(np.arange(1, end - first + 2) ** 0.4)
    expected *= counts.sum() / expected.sum()
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - len(counts)) < 5 * np.sqrt(2 * len(counts))


def interests(block: ClickBlock, row: int) -> list[int]:
    """Return the categories of the user's three interests at the time of the row."""
    traffic, user = block.world.traffic, int(block.user[row])
    phases = [
        word * length >> 32
        for word, length in zip(words(0, Stream.INTEREST_PHASE, user), (2, 5, 12), strict=False)
    ]
    stints = [(block.slots[row] // 16 + phases[j]) // length for j, length in enumerate((2, 5, 12))]
    u = [uniforms(0, Stream.INTEREST, user, 2**30 * j + int(stint))[0] for j, stint in enumerate(stints)]
    return np.searchsorted(traffic.category, u, side="right").tolist()


def test_35_percent_of_the_rows_follow_a_current_interest(unit: Production) -> None:
    block = unit.block(0, 4_000)
    tilted = np.diff(block.world.traffic.tilted, axis=1, prepend=0)
    current = [interests(block, row) for row in range(4_000)]
    by_chance = [
        tilted[scenario, list(set(categories))].sum()
        for scenario, categories in zip(block.scenario, current, strict=True)
    ]
    expected = 0.35 + 0.65 * np.array(by_chance)
    is_current = [
        category in categories for category, categories in zip(block.category, current, strict=True)
    ]
    assert abs(np.mean(is_current) - expected.mean()) < 4 * np.sqrt(
        (expected * (1 - expected)).mean() / 4_000
    )


def test_shares_of_the_three_interests(make: Callable[..., Production]) -> None:
    # With three distinct categories, the category of the latest behavior identifies its interest. Many users, since
    # rows of one user at nearly the same time show the same behavior.
    block = make(rows_per_user=20).block(0, 6_000)
    latest = block.sequences[0][np.arange(6_000), np.minimum(block.slots, 50) - 1]
    chosen = []
    for row in np.flatnonzero(block.slots % 16 > 0):
        categories = interests(block, row)
        if len(set(categories)) == 3:
            chosen.append(categories.index(latest[row]))
    assert np.abs(shares(np.array(chosen)) - (0.5, 0.3, 0.2)).max() < 4 * np.sqrt(0.25 / len(chosen)) + 0.01


def test_items_of_a_category_are_zipf_distributed(unit: Production) -> None:
    block, world = unit.block(0, 200_000), make_world(unit.spec)
    start = world.traffic.item_start
    size = int(start[1] - start[0])
    counts = np.bincount(block.item[block.category == 0], minlength=size)
    edges = (np.arange(1, size + 2, dtype=float) ** -0.05 - 1) / ((size + 1.0) ** -0.05 - 1)
    expected = np.diff(edges) * counts.sum()
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - size) < 5 * np.sqrt(2 * size)


# --- behaviors ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def histories(unit: Production) -> Columns:
    names = [ITEM_SEQUENCE, CATEGORY_SEQUENCE, ITEM_NEGATIVES, "user_id", "user_activity", Column.TIME]
    return unit.rows(0, 40_000, names)


def test_category_sequence_matches_the_item_sequence(columns: Columns, histories: Columns) -> None:
    category = np.zeros(columns["item_id"].max() + 1, dtype=np.int32)
    category[columns["item_id"]] = columns["category"]
    items = histories[ITEM_SEQUENCE]
    has_row = category[items] > 0
    assert has_row.mean() > 0.9
    assert (category[items] == histories[CATEGORY_SEQUENCE])[has_row].all()


def test_sequences_are_padded_with_zeros_at_the_end(histories: Columns) -> None:
    lengths = (histories[ITEM_SEQUENCE] > 0).sum(axis=1)
    is_filled = np.arange(50) < lengths[:, None]
    for name in (ITEM_SEQUENCE, CATEGORY_SEQUENCE, ITEM_NEGATIVES):
        assert np.array_equal(histories[name] > 0, is_filled)
    assert lengths.min() < 50
    assert (lengths == 50).mean() > 0.9


def test_sequences_of_a_user_overlap(histories: Columns) -> None:
    frame = pl.DataFrame({"user": histories["user_id"], "row": np.arange(40_000)})
    pairs = frame.group_by("user").agg(pl.col("row").min().alias("first"), pl.col("row").max().alias("last"))
    shifts = []
    for first, last in pairs.filter(pl.col("first") < pl.col("last")).select("first", "last").iter_rows():
        early, late = histories[ITEM_SEQUENCE][first], histories[ITEM_SEQUENCE][last]
        if early[-1] > 0:  # sequence without padding
            shifts.append(next(k for k in range(51) if np.array_equal(early[k:], late[: 50 - k])))
    assert np.mean(np.array(shifts) < 50) > 0.95


def test_number_of_behaviors_grows_at_the_rate_of_the_user(unit: Production) -> None:
    block = unit.block(0, unit.spec.rows)
    day, second = block.times
    expected = np.exp(block.log_rate) * (day + second / DAY + 60)
    assert np.array_equal(block.slots, np.floor(expected))
    log_rate = np.unique(np.stack([block.user, block.log_rate]), axis=1)[1]
    assert np.exp(log_rate).mean() == pytest.approx(8, rel=5 * np.sqrt((np.e - 1) / len(log_rate)))


def test_neighboring_behaviors_share_categories(histories: Columns) -> None:
    # Half of the behaviors follow one interest, whose category is constant for 32 slots, so neighbors often agree.
    full = histories[CATEGORY_SEQUENCE][histories[CATEGORY_SEQUENCE][:, -1] > 0]
    assert (full[:, 1:] == full[:, :-1]).mean() > 0.36


def test_negatives_are_uniform_over_items(unit: Production, histories: Columns) -> None:
    drawn = histories[ITEM_NEGATIVES]
    drawn = np.unique(drawn[drawn > 0], return_counts=True)[1]
    assert len(drawn) == unit.spec.num_items
    assert drawn.max() < 2 * drawn.mean()
