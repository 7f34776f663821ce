from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ctrbench.eval.contrasts import contrasts, detectable_gap
from ctrbench.eval.crossed import RowSample

SEEDS, USERS = 6, 200
DRAWS = 4_000


def sample(
    draw: np.random.Generator,
    mean: float = 0.7,
    *,
    seeds: float = 0.001,
    users: float = 0.001,
    first: int = 1,
) -> RowSample:
    """Return a row with errors of these standard deviations over seeds and users."""
    effect = users * draw.normal(size=USERS) / USERS**0.5
    numbers = range(first, first + SEEDS)
    parts = {seed: effect + 0.1 * users * draw.normal(size=USERS) / USERS**0.5 for seed in numbers}
    return RowSample(
        values={seed: mean + seeds * draw.normal() + part.sum() for seed, part in parts.items()},
        influences={seed: part - part.mean() for seed, part in parts.items()},
    )


@pytest.fixture
def rows() -> dict[str, RowSample]:
    draw = np.random.default_rng(0)
    return {"plain": sample(draw), "better": sample(draw, 0.72), "equal": sample(draw)}


def with_plain(rows: dict[str, RowSample]) -> list[tuple[str, str]]:
    return [(name, "plain") for name in rows if name != "plain"]


def test_one_contrast_is_a_t_interval(rows: dict[str, RowSample]) -> None:
    contrast = contrasts(rows, [("better", "plain")])["better", "plain"]
    first, second = rows["better"], rows["plain"]
    differences = np.array([first.values[seed] - second.values[seed] for seed in range(1, 7)])
    assert contrast.mean == pytest.approx(differences.mean())
    assert contrast.uncertainty.seeds == pytest.approx(stats.sem(differences))
    half_width = stats.t.ppf(0.975, contrast.uncertainty.freedom) * contrast.uncertainty.total
    assert contrast.uncertainty.high - contrast.mean == pytest.approx(half_width, rel=0.03)
    assert contrast.num_seeds == 6


def test_intervals_widen_with_the_family(rows: dict[str, RowSample]) -> None:
    alone = contrasts(rows, [("equal", "plain")], draws=DRAWS)["equal", "plain"].uncertainty
    of_two = contrasts(rows, with_plain(rows), draws=DRAWS)["equal", "plain"].uncertainty
    assert alone.total == of_two.total
    assert alone.high - alone.low < of_two.high - of_two.low
    assert alone.p <= of_two.p


def test_rows_without_influences_or_with_few_seeds_do_not_change_other_tests(
    rows: dict[str, RowSample],
) -> None:
    alone = contrasts(rows, with_plain(rows), draws=DRAWS)
    few = RowSample(values={1: 0.7, 2: 0.71}, influences={})
    unknown = RowSample(values=rows["equal"].values, influences={})
    more = {**rows, "few": few, "unknown": unknown, "failed": rows["equal"]}
    both = contrasts(more, with_plain(more), untested=["failed"], draws=DRAWS)
    assert {pair: both[pair] for pair in alone} == alone
    untested = [both[name, "plain"] for name in ("few", "unknown", "failed")]
    assert [contrast.uncertainty for contrast in untested] == [None] * 3
    assert [contrast.num_seeds for contrast in untested] == [2, 6, 6]
    assert untested[0].mean == pytest.approx(
        np.mean([0.7 - rows["plain"].values[1], 0.71 - rows["plain"].values[2]])
    )


def test_rows_without_common_seeds_have_no_mean(rows: dict[str, RowSample]) -> None:
    other = sample(np.random.default_rng(1), first=11)
    contrast = contrasts({**rows, "other": other}, [("other", "plain")])["other", "plain"]
    assert (contrast.mean, contrast.num_seeds, contrast.uncertainty) == (None, 0, None)


def test_pairs_with_different_seeds_are_one_family(rows: dict[str, RowSample]) -> None:
    more = {**rows, "more": RowSample(
        values={**rows["equal"].values, 7: 0.7},
        influences={**rows["equal"].influences, 7: rows["equal"].influences[6]},
    )}  # fmt: skip
    results = contrasts(more, [*with_plain(more), ("more", "equal")], draws=DRAWS)
    assert results["more", "plain"].num_seeds == 6
    assert results["more", "equal"].mean == 0.0
    assert results["more", "equal"].uncertainty.p == 1.0


def test_results_do_not_depend_on_chance(rows: dict[str, RowSample]) -> None:
    assert contrasts(rows, with_plain(rows)) == contrasts(rows, with_plain(rows))


def test_false_claims_and_power_are_as_declared() -> None:
    draw = np.random.default_rng(2)
    num_false, num_found, tables = 0, 0, 200
    for _ in range(tables):
        rows = {name: sample(draw) for name in ("plain", "a", "b", "c")}
        family = contrasts(rows, with_plain(rows), draws=1_000)
        num_false += any(c.uncertainty.low > 0 or c.uncertainty.high < 0 for c in family.values())
        # The interval of a difference that is larger by the gap excludes 0 if its lower end exceeds minus the gap.
        num_found += family["a", "plain"].uncertainty.low > -family["a", "plain"].uncertainty.detectable_gap
    # 200 tables: standard errors of 1.5 % and 2.8 %.
    assert num_false / tables < 0.095
    assert 0.72 < num_found / tables < 0.88


def test_without_tests_no_gap_is_known(rows: dict[str, RowSample]) -> None:
    untested = contrasts(rows, with_plain(rows), untested=["plain"])
    assert detectable_gap(untested.values()) is None
