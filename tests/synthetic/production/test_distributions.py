import math

import numpy as np
import pytest
from scipy.integrate import quad

from ctrbench.synthetic.production.distributions import (
    bin_counts,
    blocks,
    centered,
    cumulative,
    domain_shares,
    guide,
    quantile,
    scenario_mix,
    second_table,
    traffic_before,
    zipf,
)


@pytest.mark.parametrize(
    ("domains", "bins"), [(5_000, [18, 127, 484, 1_340, 3_031]), (5_040, [18, 128, 488, 1_350, 3_056])]
)
def test_bins_contain_the_published_numbers_of_domains(domains: int, bins: list[int]) -> None:
    assert bin_counts(domain_shares(domains, long_tail=False)) == bins


def test_shares_of_the_largest_and_the_smallest_domain() -> None:
    shares = domain_shares(5_000, long_tail=False)
    assert shares[0] == pytest.approx(0.045, abs=0.0005)
    assert shares[-1] == pytest.approx(4.7e-5, abs=5e-7)


def test_long_tail_ends_at_200_rows_and_keeps_the_head() -> None:
    shares = domain_shares(5_000, long_tail=True)
    assert shares[-1] * 2.2e9 == pytest.approx(200)
    assert bin_counts(shares)[0] == 18
    tail = shares[4_500:]
    assert tail[1:] / tail[:-1] == pytest.approx(tail[1] / tail[0])


def diurnal_density(hour: float) -> float:
    return 1 + 0.6 * math.sin(2 * math.pi * (hour - 14) / 24) + 0.2 * math.sin(4 * math.pi * (hour - 20) / 24)


@pytest.mark.parametrize("hour", [0.0, 3.5, 14.0, 24.0])
def test_traffic_is_the_integral_of_its_density(hour: float) -> None:
    expected = quad(diurnal_density, 0, hour)[0] / 24
    assert float(traffic_before(np.array(hour))) == pytest.approx(expected, abs=1e-9)


def test_traffic_increases_every_second() -> None:
    assert np.diff(second_table()).min() > 0


def test_quantile_with_a_guide_table() -> None:
    table = cumulative(np.array([0.0, 3.0, 1.0, 0.0, 6.0]))
    u = np.array([1e-9, 0.29, 0.31, 0.39, 0.41, 0.999])
    assert [quantile(probability, table, guide(table, 4)) for probability in u] == [1, 1, 2, 2, 4, 4]


def test_scenario_shares_vary_by_hour_and_are_fixed_over_the_day() -> None:
    shares, phases = zipf(10, 1.0), np.linspace(0, 24, 10)
    mix = scenario_mix(shares, phases)
    traffic = np.diff(traffic_before(np.arange(289) * 24 / 288))
    np.testing.assert_allclose(mix.sum(axis=1), 1)
    np.testing.assert_allclose(traffic @ mix, shares, rtol=1e-9)
    assert np.ptp(mix[:, 9]) > 0.3 * shares[9]


def test_blocks_are_proportional_to_shares_and_not_empty() -> None:
    starts = blocks(1_003, np.array([0.7, 0.3, 0.0]))
    assert np.diff(starts).tolist() == [701, 301, 1]


def test_centered_table_has_weighted_mean_0_and_mean_square_1() -> None:
    weights = np.array([1.0, 2.0, 5.0])
    values = centered(np.array([[1.0, 4.0, 9.0], [0.0, 0.0, 8.0]]), weights)
    assert values @ weights == pytest.approx([0, 0], abs=1e-12)
    assert np.mean(values**2 @ weights / 8) == pytest.approx(1)
