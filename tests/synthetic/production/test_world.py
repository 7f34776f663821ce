import numpy as np
import pytest

from ctrbench.synthetic.production.domains import valid_pairs
from ctrbench.synthetic.production.spec import spec_of_size
from ctrbench.synthetic.production.world import World, make_world


@pytest.fixture(scope="module")
def full() -> World:
    return make_world(spec_of_size("full"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_60_pairs_of_scenario_and_position_are_valid(seed: int) -> None:
    scenario, position = valid_pairs(seed).T
    assert len({*zip(scenario.tolist(), position.tolist(), strict=True)}) == 60
    assert np.bincount(scenario).tolist() == [6] * 10
    assert set(np.bincount(position).tolist()) == {3, 4}


def test_domains_and_reserved_tuples_are_distinct(full: World) -> None:
    domains = full.domains
    tuples = set(
        zip(domains.scenario.tolist(), domains.position.tolist(), domains.profile.tolist(), strict=True)
    )
    assert len(tuples) == 5_040
    assert np.flatnonzero(domains.is_reserved).tolist() == list(range(5_000, 5_040))
    assert domains.share.sum() == pytest.approx(1)


def test_scenario_shares_match_the_prototype(full: World) -> None:
    shares = np.bincount(full.domains.scenario, full.domains.share)
    prototype = np.array([43, 15, 8, 8, 6, 5, 5, 4, 3, 4]) / 100
    assert np.abs(shares - prototype).max() < 0.03


def test_levels_have_mean_0_and_variance_1_under_the_traffic(full: World) -> None:
    level, share = full.truth.level_D, full.domains.share
    assert level @ share == pytest.approx(0, abs=1e-12)
    assert level**2 @ share == pytest.approx(1)


def test_levels_have_the_kurtosis_of_a_normal_under_the_traffic(full: World) -> None:
    level, share = full.truth.level_D, full.domains.share
    assert level**4 @ share == pytest.approx(3, abs=0.5)


def test_4_of_6_content_dimensions_are_relevant_per_scenario(full: World) -> None:
    for scenario in range(10):
        rows = full.truth.structured_DK[full.domains.scenario == scenario]
        assert np.count_nonzero(rows[0]) == 4
        assert len({*map(bytes, rows != 0)}) == 1


def test_content_tables_are_standardized_under_the_categories(full: World) -> None:
    share = np.diff(full.traffic.category, prepend=0)
    np.testing.assert_allclose(share @ full.truth.content_CK, 0, atol=1e-9)
    np.testing.assert_allclose(share @ full.truth.content_CK**2, 1)


def test_interactions_have_no_main_effects(full: World) -> None:
    """Vectors of domains, profiles and cities have mean 0 under the traffic."""
    truth, domains = full.truth, full.domains
    profiles = np.bincount(domains.profile, domains.share, minlength=96)
    cities = np.diff(full.traffic.city, prepend=0)
    for share, table in (
        (domains.share, truth.structured_DK),
        (profiles, truth.taste_PT),
        (cities, truth.city_taste),
    ):
        np.testing.assert_allclose(share @ table, 0, atol=1e-9)


def test_additive_levels_are_sums_over_domain_features(full: World) -> None:
    domains, truth = full.domains, full.truth
    features = (domains.scenario, domains.position, domains.profile)
    one_hot = np.concatenate([np.eye(values.max() + 1)[values] for values in features], axis=1)
    fitted = one_hot @ np.linalg.lstsq(one_hot, truth.additive_D)[0]
    np.testing.assert_allclose(fitted, truth.additive_D, atol=1e-9)
    tuples = truth.level_D - truth.additive_D
    assert tuples**2 @ domains.share == pytest.approx(0.09, abs=0.02)


def test_drift_has_a_daily_step_of_std_0_05() -> None:
    drift = make_world(spec_of_size("200k").model_copy(update={"days": 300})).truth.drift_SD
    assert drift[:, 0].tolist() == [0] * 10
    assert np.diff(drift, axis=1).std() == pytest.approx(0.05, rel=4 / np.sqrt(2 * 2_990))


def test_worlds_of_different_seeds_differ() -> None:
    first, second = (make_world(spec_of_size("200k").model_copy(update={"seed": seed})) for seed in (0, 1))
    assert not np.array_equal(first.domains.profile, second.domains.profile)
    assert not np.array_equal(first.ids.category, second.ids.category)
