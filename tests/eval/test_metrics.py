from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import log_loss, roc_auc_score

from ctrbench.errors import CtrbenchError, DataError
from ctrbench.eval.metrics import GaucSums, auc, average, gauc, group_metrics, logloss, oracle, overall
from ctrbench.names import Column, Metric

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.integers(-6, 6).map(lambda n: n / 4)),
    min_size=1,
    max_size=60,
)


def frame(**columns: object) -> pl.DataFrame:
    types = {Column.LABEL: pl.Int8, Column.DOMAIN: pl.Int32, Column.USER: pl.Int32, Column.SCORE: pl.Float32}
    return pl.DataFrame(columns, schema_overrides={name: types[name] for name in columns if name in types})


def random_rows(num_rows: int = 3_000, num_groups: int = 300, *, decimals: int = 1) -> pl.DataFrame:
    """Few rows a domain and few distinct scores: single-class domains and ties abound."""
    rng = np.random.default_rng(7)
    score = rng.normal(-1.5, 1.0, num_rows).round(decimals).astype(np.float32)
    return frame(
        domain=rng.integers(0, num_groups, num_rows),
        user=rng.integers(0, 50, num_rows),
        label=rng.random(num_rows) < expit(score),
        score=score,
    )


def test_auc_counts_ties_as_half() -> None:
    # Pairs (positive, negative): (.1, .1) half, (.1, .4) wrong, (.8, .1) and (.8, .4) right.
    assert auc([0, 1, 0, 1], [0.1, 0.1, 0.4, 0.8]) == 2.5 / 4


def test_auc_of_equal_scores_is_one_half() -> None:
    assert auc([0, 1, 1, 0, 1], [3.0] * 5) == 0.5


@pytest.mark.parametrize("label", [[0, 0], [1, 1], []])
def test_auc_without_both_classes_is_undefined(label: list[int]) -> None:
    assert auc(label, [float(value) for value in label]) is None


def test_minus_zero_ties_with_zero() -> None:
    assert auc([0, 1], np.array([0.0, -0.0], dtype=np.float32)) == 0.5


def test_float64_scores_that_float32_would_merge_are_no_tie() -> None:
    assert auc([0, 1], [1.0, 1.0 + 1e-12]) == 1.0


@pytest.mark.parametrize("scores", [[-2e300, 1e300], [-3.0, -2.0], [-1e-40, 1e-40], [1e-40, 2e-40]])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_order_holds_for_extreme_scores(scores: list[float], kind: type[np.floating]) -> None:
    if kind is np.float32 and max(map(abs, scores)) > 1e38:
        scores = [value / 1e270 for value in scores]
    assert auc([0, 1], np.array(scores, dtype=kind)) == 1.0


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_auc_is_that_of_scikit_learn(rows: list[tuple[int, bool, float]]) -> None:
    label, score = [row[1] for row in rows], [row[2] for row in rows]
    expected = pytest.approx(roc_auc_score(label, score)) if len(set(label)) == 2 else None
    assert auc(label, score) == expected


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_auc_is_unmoved_by_a_monotone_map(rows: list[tuple[int, bool, float]]) -> None:
    label, score = [row[1] for row in rows], np.array([row[2] for row in rows])
    assert auc(label, score) == auc(label, np.exp(score) * 1e-3) == auc(label, score**3 - 17.3)


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_groups_are_what_each_group_gives_alone(rows: list[tuple[int, bool, float]]) -> None:
    group, label, score = (np.array(column) for column in zip(*rows, strict=True))
    found = group_metrics(group, label, score)
    alone = [auc(label[group == one], score[group == one]) for one in found.group]
    assert found.group.tolist() == sorted(set(group.tolist()))
    assert found.auc.tolist() == pytest.approx([np.nan if one is None else one for one in alone], nan_ok=True)


def test_gauc_is_a_loop_over_scikit_learn() -> None:
    rows = random_rows()
    parts = [part for _, part in rows.group_by("domain") if part["label"].n_unique() == 2]
    aucs = [roc_auc_score(part["label"], part["score"]) for part in parts]
    sizes = [part.height for part in parts]
    found = overall(rows)
    assert 0 < len(parts) < rows["domain"].n_unique()
    assert found[Metric.GAUC] == pytest.approx(np.average(aucs, weights=sizes), abs=1e-12)
    assert found[Metric.GAUC_UNWEIGHTED] == pytest.approx(np.mean(aucs), abs=1e-12)
    assert found[Metric.GAUC_COVERAGE] == pytest.approx(sum(sizes) / rows.height, abs=1e-12)


def test_gauc_by_hand() -> None:
    # Domain 1: 4 rows, AUC 2.5 / 4. Domain 2: 2 rows, AUC 0. Domain 3: one class, 4 rows.
    groups = group_metrics(
        [1] * 4 + [2] * 2 + [3] * 4, [0, 1, 0, 1, 1, 0, 0, 0, 0, 0], [1, 1, 4, 8, 0, 1, 5, 6, 7, 8]
    )
    found = gauc(groups)
    assert found.value == pytest.approx((4 * 0.625 + 2 * 0.0) / 6)
    assert (found.unweighted, found.coverage) == (0.3125, 0.6)


def test_gauc_without_any_group_of_both_classes_is_undefined() -> None:
    found = gauc(group_metrics([1, 2], [0, 1], [0.0, 0.0]))
    assert (found.value, found.unweighted, found.coverage) == (None, None, 0.0)


@pytest.mark.parametrize(("low", "high"), [(-5, 3), (3, 2**60)])
def test_groups_may_have_any_ids(low: int, high: int) -> None:
    found = group_metrics([high, low, high, low], [1, 0, 0, 1], [1.0, 2.0, 0.0, 1.0])
    assert (found.group.tolist(), found.auc.tolist()) == ([low, high], [0.0, 1.0])


def test_auc_does_not_depend_on_the_order_of_rows() -> None:
    rows = random_rows(decimals=7)
    turned = rows.sample(fraction=1.0, shuffle=True, seed=3)
    first, second = (group_metrics(part["domain"], part["label"], part["score"]) for part in (rows, turned))
    assert first.auc.tobytes() == second.auc.tobytes()
    assert auc(rows["label"], rows["score"]) == auc(turned["label"], turned["score"])


def test_logloss_is_that_of_scikit_learn() -> None:
    rows = random_rows()
    label, score = rows["label"].to_numpy(), rows["score"].to_numpy().astype(np.float64)
    assert logloss(label, score) == pytest.approx(log_loss(label, expit(score)), rel=1e-12)


def test_logloss_has_no_clipping() -> None:
    assert logloss([0, 1, 1], [1000.0, -2000.0, 500.0]) == 1000.0


def test_logloss_of_a_group_is_the_mean_of_its_rows() -> None:
    found = group_metrics([4, 9, 9], [1, 0, 1], [0.0, np.log(3), np.log(3)])
    assert found.logloss.tolist() == pytest.approx([np.log(2), (np.log(4) + np.log(4 / 3)) / 2])


def test_pcoc_is_predicted_over_observed_clicks() -> None:
    # Predicted 0.5 + 0.75 against one click, 0.25 against none, 0.5 against one.
    rows = frame(domain=[1, 1, 2, 3], label=[1, 0, 0, 1], score=[0.0, np.log(3), -np.log(3), 0.0])
    groups = group_metrics(rows["domain"], rows["label"], rows["score"])
    found = overall(rows)
    assert groups.pcoc.tolist() == pytest.approx([1.25, np.nan, 0.5], nan_ok=True)
    assert found[Metric.PCOC] == pytest.approx(2.0 / 2)
    assert found[Metric.PCOC_ERROR] == pytest.approx((2 * 0.25 + 1 * 0.5) / 3)
    assert found[Metric.PCOC_COVERAGE] == 0.75


def test_ne_of_the_base_rate_is_one() -> None:
    rows = frame(domain=[1, 1, 1, 1], label=[0, 0, 0, 1], score=[logit(0.25)] * 4)
    assert overall(rows)[Metric.NE] == pytest.approx(1.0)


def test_user_gauc_leaves_out_rows_of_unseen_users() -> None:
    rows = frame(domain=[1] * 6, user=[0, 0, 7, 7, 8, 8], label=[1, 0, 0, 1, 0, 0], score=[0, 1, 0, 1, 0, 1])
    found = overall(rows)
    assert (found[Metric.USER_GAUC], found[Metric.USER_GAUC_COVERAGE]) == (1.0, pytest.approx(2 / 6))


def test_all_users_unseen_leave_user_gauc_undefined() -> None:
    found = overall(frame(domain=[1, 1], user=[0, 0], label=[1, 0], score=[0, 1]))
    assert (found[Metric.USER_GAUC], found[Metric.USER_GAUC_COVERAGE]) == (None, 0.0)


def test_unseen_domain_is_a_group() -> None:
    found = overall(frame(domain=[0, 0, 1, 1], label=[1, 0, 0, 1], score=[0, 1, 0, 1]))
    assert (found[Metric.GAUC], found[Metric.GAUC_COVERAGE]) == (0.5, 1.0)


def test_metrics_are_there_if_their_columns_are() -> None:
    bare = frame(domain=[1, 1], label=[0, 1], score=[0, 1])
    full = bare.with_columns(user=pl.lit(1), probability=pl.lit(0.5))
    every = {value for name, value in vars(Metric).items() if name.isupper()}
    by_user = {Metric.USER_GAUC, Metric.USER_GAUC_COVERAGE}
    assert overall(bare).keys() == every - by_user - {Metric.EXPECTED_LOGLOSS}
    assert overall(full).keys() == every


def test_undefined_metrics_are_none() -> None:
    found = overall(frame(domain=[1, 1], label=[0, 0], score=[0, 1]))
    undefined = {name for name, value in found.items() if value is None}
    assert undefined == {
        Metric.NE,
        Metric.AUC,
        Metric.GAUC,
        Metric.GAUC_UNWEIGHTED,
        Metric.PCOC,
        Metric.PCOC_ERROR,
    }
    assert found[Metric.PCOC_COVERAGE] == 0.0


def test_no_rows_leave_everything_undefined() -> None:
    found = overall(random_rows().clear().with_columns(probability=pl.lit(0.5)))
    assert {value for name, value in found.items() if not name.endswith("coverage")} == {None}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(bad: float) -> None:
    with pytest.raises(CtrbenchError, match="finite numbers: 2 of 3 are NaN or infinite"):
        overall(frame(domain=[1, 1, 1], label=[0, 1, 1], score=[bad, 0.0, bad]))


def test_expected_logloss_is_cross_entropy_against_the_probability() -> None:
    p = np.array([0.1, 0.6])
    rows = frame(domain=[1, 1], label=[0, 1], score=[0.5, -1.0], probability=p)
    guess = expit([0.5, -1.0])
    expected = np.mean(-p * np.log(guess) - (1 - p) * np.log(1 - guess))
    assert overall(rows)[Metric.EXPECTED_LOGLOSS] == pytest.approx(expected)


def test_expected_auc_is_the_share_of_expected_pairs() -> None:
    p = np.array([0.1, 0.3, 0.3, 0.9])
    won = (p[:, None] > p) + 0.5 * (p[:, None] == p)
    expected = (won * np.outer(p, 1 - p)).sum() / np.outer(p, 1 - p).sum()
    rows = frame(domain=[1] * 4, label=[0, 0, 1, 1], probability=p)
    assert oracle(rows)["auc_expected"] == pytest.approx(expected)


def test_oracle_with_labels_meets_the_oracle_without() -> None:
    rng = np.random.default_rng(1)
    p = expit(rng.normal(-2, 1, 40_000))
    found = oracle(frame(domain=[1] * p.size, label=rng.random(p.size) < p, probability=p))
    entropy = np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p))
    assert (
        found["logloss_expected"] == pytest.approx(entropy) == pytest.approx(found[Metric.EXPECTED_LOGLOSS])
    )
    assert found[Metric.LOGLOSS] == pytest.approx(entropy, abs=0.006)
    assert found[Metric.AUC] == pytest.approx(found["auc_expected"], abs=0.01)


def test_oracle_knows_certain_clicks() -> None:
    found = oracle(frame(domain=[1, 1], label=[0, 1], probability=[0.0, 1.0]))
    assert (found[Metric.LOGLOSS], found["logloss_expected"], found["auc_expected"]) == (
        pytest.approx(0.0, abs=1e-300),
        0.0,
        1.0,
    )


def test_oracle_needs_probabilities() -> None:
    with pytest.raises(DataError, match="no true click probability"):
        oracle(frame(domain=[1], label=[0], score=[0.0]))


def test_the_learnable_ceiling_stands_among_the_oracle() -> None:
    # Ranked by the ceiling, the positive at 0.5 beats 0.25 alone.
    rows = frame(domain=[1] * 3, label=[1, 0, 0], probability=[0.9, 0.1, 0.1], ceiling=[0.5, 0.25, 0.75])
    found = oracle(rows)
    assert (found[Metric.AUC], found["ceiling_auc"]) == (1.0, 0.5)
    assert found["ceiling_logloss"] == pytest.approx(-np.log([0.5, 0.75, 0.25]).mean())
    expected = (
        -(0.9 * np.log(0.5) + 0.1 * np.log(0.5) + 0.1 * np.log(0.25 * 0.75) + 0.9 * np.log(0.75 * 0.25)) / 3
    )
    assert found["ceiling_expected_logloss"] == pytest.approx(expected)


def test_without_a_ceiling_the_oracle_has_none() -> None:
    found = oracle(frame(domain=[1, 1], label=[0, 1], probability=[0.2, 0.6]))
    assert not [name for name in found if name.startswith("ceiling")]


def test_sums_of_gauc_add_up_over_groups() -> None:
    rows = random_rows()
    groups = group_metrics(rows["domain"], rows["label"], rows["score"])
    parts = [groups.select(groups.group % 3 == place) for place in range(3)]
    total = sum((GaucSums.of(part.auc, part.rows) for part in parts), GaucSums())
    assert vars(total.gauc()) == pytest.approx(vars(gauc(groups)), rel=1e-12)


def test_probabilities_lie_between_0_and_1() -> None:
    with pytest.raises(DataError, match="2 of 3 do not"):
        oracle(frame(domain=[1, 1, 1], label=[0, 0, 1], probability=[0.5, 1.5, np.nan]))


def test_average_over_seeds_keeps_undefined_groups() -> None:
    first = group_metrics([1, 1, 2], [0, 1, 0], [0.0, 1.0, 0.0])
    second = group_metrics([1, 1, 2], [0, 1, 0], [1.0, 0.0, 0.0])
    assert average([first, second]).auc.tolist() == pytest.approx([0.5, np.nan], nan_ok=True)


def test_average_needs_the_same_rows() -> None:
    first = group_metrics([1, 1, 2], [0, 1, 0], [0.0, 1.0, 0.0])
    with pytest.raises(DataError, match="same test rows: 3 rows in 2 domains against 4 in 2"):
        average([first, replace(first, rows=np.array([2, 2]))])


def test_select_keeps_marked_groups() -> None:
    found = group_metrics([1, 2, 3], [0, 1, 0], [0.0, 0.0, 0.0]).select(np.array([True, False, True]))
    assert (found.group.tolist(), found.positives.tolist()) == ([1, 3], [0, 0])
