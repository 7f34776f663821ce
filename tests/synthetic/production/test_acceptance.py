"""Acceptance tests of production data, version 2 (spec: production-9.10), on 200,000 rows and larger tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import logit

from ctrbench.names import Column
from ctrbench.synthetic.expected import expected_auc
from ctrbench.synthetic.production.distributions import bin_counts
from ctrbench.synthetic.production.generator import DOMAIN_INDEX, LEVELS, Production, production_fields
from ctrbench.synthetic.production.spec import ProductionSpec, spec_of_size
from ctrbench.synthetic.production.world import make_world

Columns = dict[str, np.ndarray]
SIZES = ("200k", "2m", "20m")


def mean_rows(spec: ProductionSpec) -> dict[str, float]:
    """Return the mean number of rows per id of each categorical field."""
    return {field.name: spec.rows / field.num_ids for field in production_fields(spec) if field.num_ids}


@pytest.mark.parametrize("size", SIZES)
def test_users_of_every_profile_have_100_to_500_rows_on_average(size: str) -> None:
    world = make_world(spec_of_size(size))
    domains = world.domains
    rows = world.spec.rows * np.bincount(domains.profile, domains.share, minlength=96)
    users = np.diff(world.traffic.user_start)
    assert mean_rows(world.spec)["user_id"] == 200
    per_user = (rows / users)[rows >= 1_000]
    assert per_user.min() >= 100
    assert per_user.max() <= 500


def test_most_users_have_at_least_100_rows(columns: Columns) -> None:
    rows = np.bincount(columns["user_id"])
    rows = rows[rows > 0]
    assert np.median(rows) >= 100
    assert (rows >= 50).mean() > 0.95


@pytest.mark.parametrize("size", SIZES)
def test_ids_have_the_stated_rows(size: str) -> None:
    rows = mean_rows(spec_of_size(size))
    assert rows["item_id"] == 500
    assert rows["shop"] == pytest.approx(10_000)
    assert {name for name, number in rows.items() if number < 1_000} <= {"user_id", "item_id", "noise_4"}


@pytest.mark.parametrize("size", SIZES[1:])
def test_categories_and_brands_have_the_same_rows_at_every_size(size: str) -> None:
    rows = mean_rows(spec_of_size(size))
    assert (rows["category"], rows["brand"]) == (25_000, 2_500)


def test_rows_after_training_show_known_users_and_items(unit: Production, columns: Columns) -> None:
    train, later = np.split(np.arange(unit.spec.rows), [unit.cuts[0]])
    for name in ("user_id", "item_id", "brand", "shop", "city"):
        assert np.isin(columns[name][later], columns[name][train]).mean() > 0.99, name


def test_clicks_follow_the_click_rate_and_the_rates_of_domains(unit: Production, columns: Columns) -> None:
    y, p, domain = columns[Column.LABEL], columns[Column.PROBABILITY], columns[DOMAIN_INDEX]
    assert y.mean() == pytest.approx(unit.spec.click_rate, abs=0.003)
    sums = [np.bincount(domain, values) for values in (y, p, p * (1 - p))]
    is_large = np.bincount(domain) > 1_000
    errors = (sums[0] - sums[1])[is_large] / np.sqrt(sums[2][is_large])
    assert np.abs(errors).max() < 4


def test_levels_of_domains_have_the_declared_variance(unit: Production, columns: Columns) -> None:
    domain, value = columns[DOMAIN_INDEX], logit(columns[Column.PROBABILITY]) - columns["component_drift"]
    rows = np.bincount(domain)
    mean = np.bincount(domain, value) / np.maximum(rows, 1)
    variance = rows @ (mean - value.mean()) ** 2 / rows.sum()
    assert np.sqrt(variance) == pytest.approx(0.26**0.5, abs=0.04)


def test_few_domains_hold_most_rows_and_thousands_are_small() -> None:
    counts = {size: bin_counts(make_world(spec_of_size(size)).domains.share) for size in (*SIZES, "full")}
    assert [sum(bins[:2]) for bins in counts.values()] == [5, 12, 66, 145]
    assert counts["full"][-1] > 3_000
    assert all(bins[0] <= 14 for size, bins in counts.items() if size != "full")


def test_interactions_lie_between_levels_and_ceiling(columns: Columns) -> None:
    p = columns[Column.PROBABILITY]
    levels, ceiling, oracle = (
        expected_auc(columns[name], p) for name in (LEVELS, Column.CEILING, Column.PROBABILITY)
    )
    assert levels == pytest.approx(0.665, abs=0.01)
    assert ceiling == pytest.approx(0.754, abs=0.01)
    assert oracle == pytest.approx(0.771, abs=0.01)


def test_levels_of_null_data_reach_the_ceiling(make: Callable[..., Production]) -> None:
    columns = make(null=True).rows(0, 20_000, [Column.PROBABILITY, Column.CEILING, LEVELS])
    p = columns[Column.PROBABILITY]
    assert expected_auc(columns[LEVELS], p) == pytest.approx(
        expected_auc(columns[Column.CEILING], p), abs=1e-9
    )
