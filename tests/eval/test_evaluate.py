from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from ctrbench.errors import DataError
from ctrbench.eval.evaluate import measure_bins, measure_file, measure_frame
from ctrbench.eval.external import Limits
from ctrbench.eval.measures import DomainTable, Measures
from ctrbench.eval.stored import BinMetrics
from ctrbench.names import Column

TABLE = DomainTable(domain=range(40), rows_train=[0, *range(1, 40)], num_bins=5)
SMALL = Limits(held=0, piece=200, chunk=80)
"""Nothing fits into memory, so pieces are split many times."""
RANKING = ("auc", "gauc", "gauc_coverage")
"""Metrics of bins that are computed from integers."""


def predictions(num_rows: int = 2_000, *, kind: str = "float32", decimals: int = 7) -> pl.DataFrame:
    """Return every column, with one large user, one large domain and many small ones."""
    rng = np.random.default_rng(3)
    logit = rng.normal(-1.5, 1.0, num_rows)
    probability = expit(logit + rng.normal(0, 0.5, num_rows))
    return pl.DataFrame(
        {
            Column.DOMAIN: (40 * rng.random(num_rows) ** 3).astype(np.int32),
            Column.USER: np.maximum(rng.integers(-60, 200, num_rows), 0).astype(np.int32) // 3,
            Column.LABEL: (rng.random(num_rows) < probability).astype(np.int8),
            Column.SCORE: logit.round(decimals).astype(kind),
            "adapted": (logit + rng.normal(size=num_rows)).astype(kind),
            Column.PROBABILITY: probability,
            Column.CEILING: expit(logit),
        }
    )


def both(rows: pl.DataFrame, folder: Path, limits: Limits = SMALL) -> tuple[Measures, Measures]:
    """Return the measures of one file, read into memory and evaluated in passes."""
    rows.write_parquet(folder / "predictions.parquet")
    file = folder / "predictions.parquet"
    return measure_file(file, table=TABLE), measure_file(file, table=TABLE, limits=limits)


def numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: np.nan if value is None else value for name, value in metrics.items()}


def assert_close(values: Mapping[str, float | None], expected: Mapping[str, float | None]) -> None:
    assert list(values) == list(expected)
    assert numbers(values) == pytest.approx(numbers(expected), rel=1e-12, abs=0, nan_ok=True)


def assert_same(held: Measures, external: Measures) -> None:
    assert_close(external.overall, held.overall)
    assert_close(external.oracle, held.oracle)
    assert list(external.variants) == list(held.variants)
    for name, metrics in held.variants.items():
        assert_close(external.variants[name], metrics)
    for name in ("group", "rows", "positives"):
        assert getattr(external.domains, name).tobytes() == getattr(held.domains, name).tobytes()
    assert list(external.domains.values) == list(held.domains.values)
    assert external.domains.values["auc"].tobytes() == held.domains.values["auc"].tobytes()
    for name, values in held.domains.values.items():
        assert external.domains.values[name] == pytest.approx(values, rel=1e-12, abs=0, nan_ok=True)
    assert_same_bins(external.bins, held.bins)


def assert_same_bins(bins: Sequence[BinMetrics], expected: Sequence[BinMetrics]) -> None:
    """Compare metrics of bins: those of ranks to the last bit, others up to the order of summation."""
    for part, other in zip(bins, expected, strict=True):
        assert part.model_copy(update={"metrics": {}}) == other.model_copy(update={"metrics": {}})
        assert {name: part.metrics[name] for name in RANKING} == {
            name: other.metrics[name] for name in RANKING
        }
        assert_close(part.metrics, other.metrics)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("decimals", [0, 1, 7])
def test_passes_give_the_metrics_of_predictions_in_memory(tmp_path: Path, kind: str, decimals: int) -> None:
    assert_same(*both(predictions(kind=kind, decimals=decimals), tmp_path))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_auc_is_equal_to_the_last_bit(tmp_path: Path, kind: str) -> None:
    held, external = both(predictions(kind=kind), tmp_path)
    exact = ["auc", "gauc", "gauc_unweighted", "gauc_coverage"]
    assert [external.overall[name] for name in exact] == [held.overall[name] for name in exact]
    assert external.oracle["auc"] == held.oracle["auc"]


@pytest.mark.parametrize("column", [Column.SCORE, Column.PROBABILITY, Column.DOMAIN, Column.USER])
def test_a_column_may_have_a_single_value(tmp_path: Path, column: str) -> None:
    rows = predictions()
    assert_same(
        *both(rows.with_columns(pl.lit(rows[column][0]).alias(column).cast(rows[column].dtype)), tmp_path)
    )


def test_rows_may_be_sorted_by_score(tmp_path: Path) -> None:
    assert_same(*both(predictions().sort(Column.SCORE), tmp_path))


@pytest.mark.parametrize("label", [0, 1])
def test_auc_without_both_classes_is_undefined(tmp_path: Path, label: int) -> None:
    held, external = both(predictions().with_columns(label=pl.lit(label, pl.Int8)), tmp_path)
    assert external.overall["auc"] is None
    assert_same(held, external)


def test_user_gauc_without_seen_users_is_undefined(tmp_path: Path) -> None:
    _, external = both(predictions().with_columns(user=pl.lit(0, pl.Int32)), tmp_path)
    assert external.overall["user_gauc"] is None
    assert external.overall["user_gauc_coverage"] == 0.0


def test_minus_zero_ties_with_zero(tmp_path: Path) -> None:
    zeros = np.where(np.arange(2_000) % 3 == 0, 0.0, -0.0).astype(np.float32)
    _, external = both(predictions().with_columns(score=pl.Series(zeros)), tmp_path)
    assert external.overall["auc"] == 0.5


def test_probabilities_may_be_0_and_1(tmp_path: Path) -> None:
    rows = predictions()
    assert_same(*both(rows.with_columns(probability=rows[Column.PROBABILITY].round(0)), tmp_path))


def test_metrics_are_left_out_without_the_columns_that_they_need(tmp_path: Path) -> None:
    held, external = both(predictions().select(Column.DOMAIN, Column.LABEL, Column.SCORE), tmp_path)
    assert (external.oracle, external.variants) == ({}, {})
    assert "user_gauc" not in external.overall
    assert_same(held, external)


def test_auc_equals_that_of_scikit_learn(tmp_path: Path) -> None:
    rows = predictions(decimals=1)
    _, external = both(rows, tmp_path)
    assert external.overall["auc"] == pytest.approx(roc_auc_score(rows["label"], rows["score"]), abs=1e-12)
    assert external.oracle["ceiling_auc"] == pytest.approx(
        roc_auc_score(rows["label"], rows["ceiling"]), abs=1e-12
    )


@pytest.mark.parametrize("limits", [None, SMALL])
def test_bins_do_not_read_probabilities_or_users(tmp_path: Path, limits: Limits | None) -> None:
    file = tmp_path / "predictions.parquet"
    predictions().with_columns(probability=pl.lit(2.0), user=pl.lit(-1, pl.Int32)).write_parquet(file)
    bins = measure_bins(file, table=TABLE, limits=limits)
    assert_same_bins(bins, measure_frame(predictions(), table=TABLE).bins)


@pytest.mark.parametrize("limits", [None, SMALL])
def test_bins_alone_equal_those_of_all_metrics(tmp_path: Path, limits: Limits | None) -> None:
    held, _ = both(predictions(), tmp_path)
    assert_same_bins(measure_bins(tmp_path / "predictions.parquet", table=TABLE, limits=limits), held.bins)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.parquet"]


def test_scratch_files_are_removed(tmp_path: Path) -> None:
    both(predictions(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.parquet"]


@pytest.mark.parametrize(
    ("column", "bad", "message"),
    [
        (Column.SCORE, float("nan"), "finite numbers: 3 of 2,000 are NaN or infinite"),
        (Column.PROBABILITY, 1.5, r"within \[0, 1\]: 3 of 2,000 are not"),
        (Column.CEILING, float("nan"), r"within \[0, 1\]: 3 of 2,000 are not"),
        (Column.DOMAIN, 77, "1 unknown, the first is 77"),
    ],
)
@pytest.mark.parametrize("limits", [SMALL, Limits()])
def test_invalid_rows_are_refused(
    tmp_path: Path, column: str, bad: float, message: str, limits: Limits
) -> None:
    rows = predictions().with_row_index()
    broken = pl.when(pl.col("index") % 700 == 5).then(bad).otherwise(pl.col(column))
    rows = rows.with_columns(broken.cast(rows[column].dtype).alias(column)).drop("index")
    rows.write_parquet(tmp_path / "p.parquet")
    with pytest.raises(DataError, match=message):
        measure_file(tmp_path / "p.parquet", table=TABLE, limits=limits)


def test_a_file_in_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_text("row,score", encoding="utf-8")
    with pytest.raises(DataError, match="predictions must be a parquet file"):
        measure_file(tmp_path / "p.parquet", table=TABLE)


def test_a_file_without_scores_is_refused(tmp_path: Path) -> None:
    predictions().drop(Column.SCORE).write_parquet(tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"lacks \['score'\]"):
        measure_file(tmp_path / "p.parquet", table=TABLE)


def test_a_full_disk_raises_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ctrbench.eval.external_sort.append_rows", full)
    with pytest.raises(DataError, match="no space left for sorting"):
        both(predictions(), tmp_path)


def test_a_frame_has_the_metrics_of_its_file(tmp_path: Path) -> None:
    held, _ = both(predictions(), tmp_path)
    assert_same(measure_frame(predictions(), table=TABLE), held)
