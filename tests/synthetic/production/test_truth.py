"""Click probabilities against independent implementations of the formulas, from the emitted columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, logit
from scipy.stats import norm

from ctrbench.names import Column
from ctrbench.synthetic.philox import normals, uniforms
from ctrbench.synthetic.production.clicks import ClickBlock, Component
from ctrbench.synthetic.production.generator import (
    CATEGORY_SEQUENCE,
    DOMAIN_INDEX,
    ITEM_SEQUENCE,
    LEVELS,
    Production,
)
from ctrbench.synthetic.production.streams import Stream
from ctrbench.synthetic.production.traffic import tilted_shares
from ctrbench.synthetic.production.truth import network_logit
from ctrbench.synthetic.production.world import make_world

Columns = dict[str, np.ndarray]
VARIANCES = {
    Component.DOMAIN: 0.260,
    Component.DRIFT: 1.0,
    Component.LEVEL: 0.200,
    Component.TASTE: 0.200,
    Component.STRUCTURED: 0.260,
    Component.IDIOSYNCRATIC: 0.030,
    Component.BEHAVIOR: 0.100,
    Component.RESIDUAL: 0.150,
}


def weighted_sum(columns: Columns, without: tuple[Component, ...] = ()) -> np.ndarray:
    return sum(np.sqrt(v) * columns[part] for part, v in VARIANCES.items() if part not in without)


def standardized(values: np.ndarray, block: ClickBlock, part: str) -> np.ndarray:
    scale = block.constants.scales[part]
    means = np.array([float(mean) for mean in scale.means])
    return (values - means[block.scenario]) / float(scale.sd)


def content(block: ClickBlock) -> np.ndarray:
    """Return the content q = 0.8 g + 0.5 β + 0.33 η of each row's item, computed from single draws."""
    brand = vectors(block, Stream.BRAND_CONTENT, block.item_features[0], 3)
    item = vectors(block, Stream.ITEM_CONTENT, block.item, 3)
    return 0.8 * block.world.truth.content_CK[block.category] + 0.5 * brand + 0.11**0.5 * item


def vectors(block: ClickBlock, stream: Stream, index_B: np.ndarray, pairs: int) -> np.ndarray:
    """Return one vector of normals per row, drawn pair by pair."""
    return np.array(
        [
            [value for pair in range(pairs) for value in normals(block.seed, stream, index, 0, pair)]
            for index in index_B.tolist()
        ]
    )


# --- the logit -----------------------------------------------------------------------------------------------------


def test_logit_is_the_weighted_sum_of_its_components(unit: Production, columns: Columns) -> None:
    expected = float(unit.constants.mu) + weighted_sum(columns)
    np.testing.assert_allclose(logit(columns[Column.PROBABILITY]), expected, atol=1e-9)


def test_null_data_have_no_interaction_terms(make: Callable[..., Production]) -> None:
    columns = make(null=True, sequences=True).rows(
        198_000, 200_000, [Column.PROBABILITY, LEVELS, Component.RESIDUAL]
    )
    expected = columns[LEVELS] + 0.15**0.5 * columns[Component.RESIDUAL]
    np.testing.assert_allclose(logit(columns[Column.PROBABILITY]), expected, atol=1e-9)


def test_levels_are_the_main_effects(unit: Production, columns: Columns) -> None:
    truth, domain = make_world(unit.spec).truth, columns[DOMAIN_INDEX]
    expected = 0.26**0.5 * truth.additive_D[domain] + 0.2**0.5 * columns[Component.LEVEL]
    np.testing.assert_allclose(columns[LEVELS] - float(unit.constants.mu), expected, atol=1e-9)


@pytest.mark.parametrize("null", [False, True])
def test_null_category_shares_are_equal_in_all_scenarios(
    make: Callable[..., Production], *, null: bool
) -> None:
    shares = tilted_shares(make(null=null).spec)
    assert np.allclose(shares, shares[0]) == null


@pytest.mark.parametrize("null", [False, True])
def test_null_levels_are_additive(make: Callable[..., Production], *, null: bool) -> None:
    world = make_world(make(null=null).spec)
    domains, level = world.domains, world.truth.level_D
    profile_features = np.unravel_index(domains.profile, (3, 8, 4))
    features = (domains.scenario, domains.position, *profile_features)
    one_hot = np.concatenate([np.eye(values.max() + 1)[values] for values in features], axis=1)
    fitted = one_hot @ np.linalg.lstsq(one_hot, level)[0]
    assert np.allclose(fitted, level) == null
    assert level**2 @ domains.share == pytest.approx(1)


def test_components_have_variance_1(columns: Columns) -> None:
    for part in set(Component) - {Component.DRIFT, Component.BEHAVIOR}:
        assert columns[part].std() == pytest.approx(1, abs=0.03), part


def test_residual_depends_on_user_and_item(unit: Production, columns: Columns) -> None:
    block = unit.block(0, 200)
    expected = [
        normals(0, Stream.RESIDUAL, user, item)[0]
        for user, item in zip(block.user.tolist(), block.item.tolist(), strict=True)
    ]
    assert columns[Component.RESIDUAL][:200].tolist() == expected


def test_structured_component_is_a_product_of_domain_and_content(unit: Production, columns: Columns) -> None:
    block = unit.block(0, 200)
    product = (block.world.truth.structured_DK[block.domain] * content(block)).sum(axis=1)
    np.testing.assert_allclose(
        columns[Component.STRUCTURED][:200], standardized(product, block, "structured")
    )


def test_idiosyncratic_component_is_a_product_of_tuple_and_content(
    unit: Production, columns: Columns
) -> None:
    block = unit.block(0, 200)
    product = (block.world.truth.idiosyncratic_DK[block.domain] * content(block)).sum(axis=1)
    np.testing.assert_allclose(
        columns[Component.IDIOSYNCRATIC][:200], standardized(product, block, "idiosyncratic")
    )


def test_level_component_is_quality_and_user_level(unit: Production, columns: Columns) -> None:
    block, truth = unit.block(0, 200), make_world(unit.spec).truth
    brand, shop = block.item_features[:2]
    item_term, brand_term, shop_term = (
        np.array([normals(0, stream, index)[0] for index in indices])
        for stream, indices in ((Stream.ITEM, block.item), (Stream.BRAND, brand), (Stream.SHOP, shop))
    )
    quality = 0.6 * truth.quality_C[block.category] + 0.5 * brand_term
    quality += 0.5 * shop_term + 0.14**0.5 * item_term
    activity, user_term = np.array([normals(0, Stream.USER, user) for user in block.user]).T
    city, device = truth.city[block.city_and_device[0]], truth.device[block.city_and_device[1]]
    level = 0.6 * city + 0.5 * device + 0.5 * activity + 0.14**0.5 * user_term
    total = 0.6**0.5 * quality + 0.4**0.5 * level
    np.testing.assert_allclose(
        columns[Component.LEVEL][:200], standardized(total, block, "level"), atol=1e-12
    )


def test_taste_component_is_a_product_of_user_and_content(unit: Production, columns: Columns) -> None:
    block = unit.block(0, 200)
    truth, user = block.world.truth, vectors(block, Stream.USER_TASTE, block.user, 2)
    z = 0.8 * truth.taste_PT[block.profile] + 0.5 * truth.city_taste[block.city_and_device[0]]
    taste = ((z + 0.11**0.5 * user) * content(block)[:, :4]).sum(axis=1) / 4**0.5
    np.testing.assert_allclose(
        columns[Component.TASTE][:200], standardized(taste, block, "taste"), atol=1e-12
    )


def test_content_fields_are_the_content_of_the_item(unit: Production, columns: Columns) -> None:
    fields = np.stack([columns[f"content_{k}"][:200] for k in range(1, 7)], axis=1)
    np.testing.assert_allclose(fields, content(unit.block(0, 200)), rtol=1e-6)


def test_behavior_component_is_0_without_sequences(columns: Columns) -> None:
    assert not columns[Component.BEHAVIOR].any()


def test_behavior_component_follows_from_the_sequences(
    make: Callable[..., Production], columns: Columns
) -> None:
    names = [ITEM_SEQUENCE, CATEGORY_SEQUENCE, "category", "brand", Component.BEHAVIOR]
    unit = make(sequences=True)
    rows, block = unit.rows(0, 3_000, names), unit.block(0, 3_000)
    brand = np.zeros(unit.spec.num_items + 1, dtype=np.int64)
    brand[columns["item_id"]] = columns["brand"]
    lengths = (rows[ITEM_SEQUENCE] > 0).sum(axis=1)
    decay = block.world.truth.decay_S[block.scenario]
    weight = decay[:, None] ** (lengths[:, None] - np.arange(50))
    same_category = rows[CATEGORY_SEQUENCE] == rows["category"][:, None]
    same_brand = brand[rows[ITEM_SEQUENCE]] == rows["brand"][:, None]
    total = ((same_category + 0.5 * same_brand) * weight * (rows[ITEM_SEQUENCE] > 0)).sum(axis=1)
    # The brand of items without rows is not in the columns.
    has_brand = ((brand[rows[ITEM_SEQUENCE]] > 0) | (rows[ITEM_SEQUENCE] == 0)).all(axis=1)
    assert has_brand.mean() > 0.9
    expected = standardized(total, block, "behaviour")
    np.testing.assert_allclose(rows[Component.BEHAVIOR][has_brand], expected[has_brand], atol=1e-9)


def test_behavior_component_respects_the_sequence_length(make: Callable[..., Production]) -> None:
    production = make(sequence_length=3, sequences=True)
    categories = production.rows(0, 2_000, [CATEGORY_SEQUENCE, "category"])
    matches = (categories[CATEGORY_SEQUENCE] == categories["category"][:, None]).any(axis=1)
    assert np.array_equal(production.block(0, 2_000).parts[4] > 0, matches)


# --- other forms of the structured part ----------------------------------------------------------------------------


def test_interaction_forms_differ_only_in_the_structured_component(make: Callable[..., Production]) -> None:
    forms = [make(interaction=form).rows(0, 3_000, Component) for form in ("bilinear", "mlp", "tree")]
    for part in Component:
        same = [np.array_equal(forms[0][part], other[part]) for other in forms[1:]]
        assert same == [part != Component.STRUCTURED] * 2, part


def test_network_is_odd_in_domain_and_content() -> None:
    rng = np.random.default_rng(0)
    side, contents, offset, out = (
        rng.normal(size=8),
        rng.normal(size=(6, 8)),
        rng.random(8) + 0.5,
        rng.normal(size=8),
    )
    q = rng.normal(size=6)
    value = network_logit(side, contents, offset, out, q)
    inner = contents.T @ q
    expected = sum(
        sign_m * sign_x * np.tanh(offset + sign_m * side + sign_x * inner)
        for sign_m in (1, -1)
        for sign_x in (1, -1)
    )
    assert value == pytest.approx(expected @ out)
    assert network_logit(-side, contents, offset, out, q) == pytest.approx(-value)
    assert network_logit(side, contents, offset, out, -q) == pytest.approx(-value)


def test_trees_split_on_signs_of_relevant_dimensions(make: Callable[..., Production]) -> None:
    block = make(interaction="tree").block(0, 100)
    sides, splits, values = block.world.truth.tree
    bits = content(block)[:, splits] > 0
    leaves = 2 * bits[..., 0] + bits[..., 1]
    side = sides[block.domain]
    expected = np.where(side >= 0, values[np.arange(48), side, leaves], 0.0).sum(axis=1)
    np.testing.assert_allclose(block.parts[2], expected, atol=1e-12)
    np.testing.assert_allclose(values.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(values.mean(axis=2), 0, atol=1e-12)
    masked = block.world.truth.structured_DK[:, splits] == 0
    assert np.array_equal(sides == -1, masked.any(axis=2))


# --- clicks, ceilings and prices -----------------------------------------------------------------------------------


def test_ceiling_is_the_mean_over_the_residual(unit: Production, columns: Columns) -> None:
    known_logit = float(unit.constants.mu) + weighted_sum(columns, (Component.RESIDUAL,))
    for row in (0, 1, 2, int(known_logit.argmax())):
        mean = quad(
            lambda x, row=row: expit(known_logit[row] + 0.15**0.5 * x) * norm.pdf(x), -12, 12, epsabs=1e-13
        )[0]
        assert columns[Column.CEILING][row] == pytest.approx(mean, rel=1e-9)


def test_clicks_are_uniforms_below_the_probability(columns: Columns) -> None:
    u = [uniforms(0, Stream.ROW_LABEL, row)[0] for row in range(2_000)]
    assert np.array_equal(columns[Column.LABEL][:2_000], u < columns[Column.PROBABILITY][:2_000])


def test_cost_is_the_price_of_clicked_rows(columns: Columns) -> None:
    assert np.array_equal(columns["cost"], columns["price"] * columns[Column.LABEL])


def test_price_is_50_to_95_percent_of_the_bid(columns: Columns) -> None:
    share = columns["price"] / columns["bid"]
    assert 0.5 <= share.min() < 0.501
    assert 0.949 < share.max() <= 0.95
    assert share.mean() == pytest.approx(0.725, abs=0.001)


def test_bids_depend_on_shop_day_and_price_level(columns: Columns) -> None:
    days = columns[Column.TIME] // 86_400
    is_same = (columns["shop"] == columns["shop"][0]) & (days == 0)
    rest = np.log(columns["bid"]) - 0.1 * (columns["price_level"] - 5)
    assert np.ptp(rest[is_same]) < 1e-9
    cells = np.unique(np.round(rest, 9))
    assert len(cells) == 6 * len(np.unique(columns["shop"]))
    assert cells.std() == pytest.approx(0.6, rel=4 / np.sqrt(2 * len(cells)))


def test_bids_follow_quality_at_correlation_1(make: Callable[..., Production]) -> None:
    block = make(bid_quality_corr=1.0).block(0, 1_000)
    expected = np.exp(0.6 * block.quality + 0.1 * (block.item_features[2] + 1 - 5))
    np.testing.assert_allclose(block.bid, expected)
