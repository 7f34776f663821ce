from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from ctrbench.errors import DataError
from ctrbench.eval.oracle import oracle
from ctrbench.names import Column


def frame(**columns: object) -> pl.DataFrame:
    types = {Column.LABEL: pl.Int8, Column.DOMAIN: pl.Int32, Column.USER: pl.Int32, Column.SCORE: pl.Float32}
    return pl.DataFrame(columns, schema_overrides={name: types[name] for name in columns if name in types})


def test_expected_auc_is_the_share_of_expected_pairs() -> None:
    p = np.array([0.1, 0.3, 0.3, 0.9])
    won = (p[:, None] > p) + 0.5 * (p[:, None] == p)
    expected = (won * np.outer(p, 1 - p)).sum() / np.outer(p, 1 - p).sum()
    rows = frame(domain=[1] * 4, label=[0, 0, 1, 1], probability=p)
    assert oracle(rows)["auc_expected"] == pytest.approx(expected)


def test_metrics_on_labels_approach_the_expected_ones() -> None:
    rng = np.random.default_rng(1)
    p = expit(rng.normal(-2, 1, 40_000))
    values = oracle(frame(domain=[1] * p.size, label=rng.random(p.size) < p, probability=p))
    entropy = np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p))
    assert values["logloss_expected"] == pytest.approx(entropy) == pytest.approx(values["expected_logloss"])
    assert values["logloss"] == pytest.approx(entropy, abs=0.006)
    assert values["auc"] == pytest.approx(values["auc_expected"], abs=0.01)


def test_probabilities_of_0_and_1_are_evaluated_exactly() -> None:
    values = oracle(frame(domain=[1, 1], label=[0, 1], probability=[0.0, 1.0]))
    assert (values["logloss"], values["logloss_expected"], values["auc_expected"]) == (
        pytest.approx(0.0, abs=1e-300),
        0.0,
        1.0,
    )


def test_predictions_without_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match="lack the true click probability"):
        oracle(frame(domain=[1], label=[0], score=[0.0]))


def test_oracle_includes_the_learnable_ceiling() -> None:
    # Ranked by the ceiling, the positive at 0.5 is above 0.25 and below 0.75.
    rows = frame(domain=[1] * 3, label=[1, 0, 0], probability=[0.9, 0.1, 0.1], ceiling=[0.5, 0.25, 0.75])
    values = oracle(rows)
    assert (values["auc"], values["ceiling_auc"]) == (1.0, 0.5)
    assert values["ceiling_logloss"] == pytest.approx(-np.log([0.5, 0.75, 0.25]).mean())
    expected = (
        -(0.9 * np.log(0.5) + 0.1 * np.log(0.5) + 0.1 * np.log(0.25 * 0.75) + 0.9 * np.log(0.75 * 0.25)) / 3
    )
    assert values["ceiling_expected_logloss"] == pytest.approx(expected)


def test_oracle_without_a_ceiling_column_has_no_ceiling() -> None:
    values = oracle(frame(domain=[1, 1], label=[0, 1], probability=[0.2, 0.6]))
    assert not [name for name in values if name.startswith("ceiling")]


def test_probabilities_outside_0_to_1_are_refused() -> None:
    with pytest.raises(DataError, match="2 of 3 are not"):
        oracle(frame(domain=[1, 1, 1], label=[0, 0, 1], probability=[0.5, 1.5, np.nan]))
