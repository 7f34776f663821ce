"""What moves clicks, against formulas written out again from the columns that are put out."""

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
from ctrbench.synthetic.production.generator import CATEGORY_SEQUENCE, ITEM_SEQUENCE, Production
from ctrbench.synthetic.production.streams import Stream
from ctrbench.synthetic.production.truth import _mlp
from ctrbench.synthetic.production.world import make_world, tilted_shares

Columns = dict[str, np.ndarray]
VARIANCES = {
    Component.DOMAIN: 0.345,
    Component.DRIFT: 1.0,
    Component.SHARED: 0.370,
    Component.STRUCTURED: 0.140,
    Component.IDIOSYNCRATIC: 0.040,
    Component.BEHAVIOUR: 0.100,
    Component.RESIDUAL: 0.226,
}


def summed(columns: Columns, without: tuple[Component, ...] = ()) -> np.ndarray:
    return sum(np.sqrt(v) * columns[part] for part, v in VARIANCES.items() if part not in without)


def standard(values: np.ndarray, block: ClickBlock, part: str) -> np.ndarray:
    scale = block.constants.scales[part]
    means = np.array([float(mean) for mean in scale.means])
    return (values - means[block.scenario]) / float(scale.sd)


def content(block: ClickBlock) -> np.ndarray:
    """Return q = 0.8 g + 0.6 η of each row's item, built from single draws."""
    own = [
        [one for pair in range(8) for one in normals(block.seed, Stream.ITEM_CONTENT, item, 0, pair)]
        for item in block.item.tolist()
    ]
    return 0.8 * block.world.truth.content_CK[block.category] + 0.6 * np.array(own)


# --- the logit -----------------------------------------------------------------------------------------------------


def test_the_logit_is_the_weighted_sum_of_its_parts(unit: Production, columns: Columns) -> None:
    expected = float(unit.constants.mu) + summed(columns)
    np.testing.assert_allclose(logit(columns[Column.PROBABILITY]), expected, atol=1e-9)


def test_nothing_joins_domain_and_content_in_the_null_dataset(make: Callable[..., Production]) -> None:
    null = make(null=True)
    columns = null.rows(0, 2_000, [Column.PROBABILITY, *Component])
    expected = float(null.constants.mu) + summed(columns, (Component.STRUCTURED, Component.IDIOSYNCRATIC))
    np.testing.assert_allclose(logit(columns[Column.PROBABILITY]), expected, atol=1e-9)


@pytest.mark.parametrize("null", [False, True, "strict"])
def test_in_strict_null_data_the_same_row_clicks_alike_in_every_domain(
    make: Callable[..., Production], null: bool | str
) -> None:
    block = make(null=null).block(240_000, 242_000)
    drift = block.world.truth.drift_SD
    before = [block.shared, block.match, drift[block.scenario, block.times[0]]]
    # The same users see the same items at the same time, all in the domain of the row before.
    for derived in ("scenario", "position", "profile", "contents", "shared", "match", "parts"):
        vars(block).pop(derived, None)
    vars(block)["domain"] = np.roll(block.domain, 1)
    after = [block.shared, block.match, drift[block.scenario, block.times[0]]]
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one, other) == (null == "strict")


@pytest.mark.parametrize("null", [True, "strict"])
def test_in_strict_null_data_scenarios_show_the_same_categories(
    make: Callable[..., Production], null: bool | str
) -> None:
    shares = tilted_shares(make(null=null).spec)
    assert np.allclose(shares, shares[0]) == (null == "strict")


@pytest.mark.parametrize("null", [True, "strict"])
def test_levels_of_strict_null_data_add_up(make: Callable[..., Production], null: bool | str) -> None:
    world = make_world(make(null=null).spec)
    domains, level = world.domains, world.truth.level_D
    of_profile = np.unravel_index(domains.profile, (3, 8, 4))
    features = (domains.scenario, domains.position, *of_profile)
    one_hot = np.concatenate([np.eye(values.max() + 1)[values] for values in features], axis=1)
    fitted = one_hot @ np.linalg.lstsq(one_hot, level)[0]
    assert np.allclose(fitted, level) == (null == "strict")
    assert level**2 @ domains.share == pytest.approx(1)


def test_parts_have_variance_1(columns: Columns) -> None:
    for part in set(Component) - {Component.DRIFT}:
        assert columns[part].std() == pytest.approx(1, abs=0.03), part


def test_the_residual_belongs_to_user_and_item(unit: Production, columns: Columns) -> None:
    block = unit.block(0, 200)
    expected = [
        normals(0, Stream.RESIDUAL, user, item)[0]
        for user, item in zip(block.user.tolist(), block.item.tolist(), strict=True)
    ]
    assert columns[Component.RESIDUAL][:200].tolist() == expected


def test_the_structured_part_is_a_product_of_domain_and_content(unit: Production, columns: Columns) -> None:
    block = unit.block(0, 200)
    product = (block.world.truth.structured_DK[block.domain] * content(block)).sum(axis=1)
    np.testing.assert_allclose(columns[Component.STRUCTURED][:200], standard(product, block, "structured"))


def test_the_idiosyncratic_part_is_the_tuples_own(unit: Production, columns: Columns) -> None:
    block = unit.block(0, 200)
    product = (block.world.truth.idiosyncratic_DK[block.domain] * content(block)).sum(axis=1)
    np.testing.assert_allclose(
        columns[Component.IDIOSYNCRATIC][:200], standard(product, block, "idiosyncratic")
    )


def test_the_shared_part_is_quality_level_profile_and_taste(unit: Production, columns: Columns) -> None:
    block, truth = unit.block(0, 200), make_world(unit.spec).truth
    rows = range(200)
    brand, shop = block.item_features[:2]
    own = np.array([normals(0, Stream.ITEM, item)[0] for item in block.item])
    of_brand = np.array([normals(0, Stream.BRAND, one)[0] for one in brand])
    of_shop = np.array([normals(0, Stream.SHOP, one)[0] for one in shop])
    quality = 0.5 * truth.quality_C[block.category] + 0.4 * of_brand + 0.4 * of_shop + 0.43**0.5 * own
    activity, alone = np.array([normals(0, Stream.USER, user) for user in block.user]).T
    city, device = truth.city[block.place[0]], truth.device[block.place[1]]
    level = 0.45 * city + 0.35 * device + 0.4 * activity + 0.515**0.5 * alone
    own_taste = [
        [one for pair in range(4) for one in normals(0, Stream.USER_TASTE, block.user[i], 0, pair)]
        for i in rows
    ]
    z = 0.6 * truth.taste_PT[block.profile] + 0.8 * np.array(own_taste)
    taste = (z * content(block)[:, :8]).sum(axis=1) / 8**0.5
    joined = truth.profile_category_PC[block.profile, block.category]
    total = 0.35**0.5 * quality + 0.2**0.5 * level + 0.5 * joined + 0.2**0.5 * taste
    np.testing.assert_allclose(columns[Component.SHARED][:200], standard(total, block, "shared"), atol=1e-12)


def test_the_behaviour_part_is_told_by_the_sequences(unit: Production, columns: Columns) -> None:
    names = [ITEM_SEQUENCE, CATEGORY_SEQUENCE, "category", "brand"]
    rows, block = unit.rows(0, 3_000, names), unit.block(0, 3_000)
    brand = np.zeros(unit.spec.num_items + 1, dtype=np.int64)
    brand[columns["item_id"]] = columns["brand"]
    lengths = (rows[ITEM_SEQUENCE] > 0).sum(axis=1)
    decay = block.world.truth.decay_S[block.scenario]
    weight = decay[:, None] ** (lengths[:, None] - np.arange(50))
    same_category = rows[CATEGORY_SEQUENCE] == rows["category"][:, None]
    same_brand = brand[rows[ITEM_SEQUENCE]] == rows["brand"][:, None]
    total = ((same_category + 0.5 * same_brand) * weight * (rows[ITEM_SEQUENCE] > 0)).sum(axis=1)
    # An item that no row shows has no known brand here.
    known = ((brand[rows[ITEM_SEQUENCE]] > 0) | (rows[ITEM_SEQUENCE] == 0)).all(axis=1)
    assert known.mean() > 0.9
    expected = standard(total, block, "behaviour")
    np.testing.assert_allclose(columns[Component.BEHAVIOUR][:3_000][known], expected[known], atol=1e-9)


def test_short_sequences_match_over_their_length(make: Callable[..., Production]) -> None:
    production = make(sequence_length=3)
    categories = production.rows(0, 2_000, [CATEGORY_SEQUENCE, "category"])
    matches = (categories[CATEGORY_SEQUENCE] == categories["category"][:, None]).any(axis=1)
    assert np.array_equal(production.block(0, 2_000).parts[3] > 0, matches)


# --- other forms of the structured part ----------------------------------------------------------------------------


def test_forms_differ_in_nothing_but_the_structured_part(make: Callable[..., Production]) -> None:
    forms = [make(interaction=form).rows(0, 3_000, Component) for form in ("bilinear", "mlp", "tree")]
    for part in Component:
        same = [np.array_equal(forms[0][part], other[part]) for other in forms[1:]]
        assert same == [part != Component.STRUCTURED] * 2, part


def test_the_network_has_no_level_of_domain_or_content() -> None:
    rng = np.random.default_rng(0)
    side, contents, offset, out = (
        rng.normal(size=8),
        rng.normal(size=(16, 8)),
        rng.random(8) + 0.5,
        rng.normal(size=8),
    )
    q = rng.normal(size=16)
    value = _mlp(side, contents, offset, out, q)
    inner = contents.T @ q
    expected = sum(
        sign_m * sign_x * np.tanh(offset + sign_m * side + sign_x * inner)
        for sign_m in (1, -1)
        for sign_x in (1, -1)
    )
    assert value == pytest.approx(expected @ out)
    assert _mlp(-side, contents, offset, out, q) == pytest.approx(-value)
    assert _mlp(side, contents, offset, out, -q) == pytest.approx(-value)


def test_the_forest_reads_signs_of_relevant_numbers(make: Callable[..., Production]) -> None:
    block = make(interaction="tree").block(0, 100)
    sides, splits, values = block.world.truth.tree
    bits = content(block)[:, splits] > 0
    leaves = 2 * bits[..., 0] + bits[..., 1]
    side = sides[block.domain]
    expected = np.where(side >= 0, values[np.arange(48), side, leaves], 0.0).sum(axis=1)
    np.testing.assert_allclose(block.parts[1], expected, atol=1e-12)
    np.testing.assert_allclose(values.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(values.mean(axis=2), 0, atol=1e-12)
    masked = block.world.truth.structured_DK[:, splits] == 0
    assert np.array_equal(sides == -1, masked.any(axis=2))


# --- clicks, ceilings and prices -----------------------------------------------------------------------------------


def test_the_ceiling_is_the_mean_over_what_nothing_tells(unit: Production, columns: Columns) -> None:
    known = float(unit.constants.mu) + summed(columns, (Component.RESIDUAL,))
    for row in (0, 1, 2, int(known.argmax())):
        mean = quad(
            lambda x, row=row: expit(known[row] + 0.226**0.5 * x) * norm.pdf(x), -12, 12, epsabs=1e-13
        )[0]
        assert columns[Column.CEILING][row] == pytest.approx(mean, rel=1e-9)


def test_clicks_are_uniforms_below_the_probability(columns: Columns) -> None:
    u = [uniforms(0, Stream.ROW_LABEL, row)[0] for row in range(2_000)]
    assert np.array_equal(columns[Column.LABEL][:2_000], u < columns[Column.PROBABILITY][:2_000])


def test_a_click_costs_its_price(columns: Columns) -> None:
    assert np.array_equal(columns["cost"], columns["price"] * columns[Column.LABEL])


def test_prices_lie_between_a_half_and_19_twentieths_of_the_bid(columns: Columns) -> None:
    share = columns["price"] / columns["bid"]
    assert 0.5 <= share.min() < 0.501
    assert 0.949 < share.max() <= 0.95
    assert share.mean() == pytest.approx(0.725, abs=0.001)


def test_an_advertiser_bids_by_day_and_price_level(columns: Columns) -> None:
    days = columns[Column.TIME] // 86_400
    one = (columns["shop"] == columns["shop"][0]) & (days == 0)
    rest = np.log(columns["bid"]) - 0.1 * (columns["price_level"] - 5)
    assert np.ptp(rest[one]) < 1e-9
    cells = np.unique(np.round(rest, 9))
    assert len(cells) == 6 * len(np.unique(columns["shop"]))
    assert cells.std() == pytest.approx(0.6, rel=4 / np.sqrt(2 * len(cells)))


def test_bids_may_follow_quality(make: Callable[..., Production]) -> None:
    block = make(bid_quality_corr=1.0).block(0, 1_000)
    expected = np.exp(0.6 * block.quality + 0.1 * (block.item_features[2] + 1 - 5))
    np.testing.assert_allclose(block.bid, expected)
