from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from ctrbench.eval import cluster_influence
from ctrbench.eval.cluster_influence import influence_of_file, influence_of_frame, pack, unpack
from ctrbench.eval.influence import Clusters, auc_influence
from ctrbench.eval.ranking import RankedRows
from ctrbench.eval.stored import ClusterInfluence, PackedNumbers
from ctrbench.names import Column


@pytest.fixture
def frame() -> pl.DataFrame:
    draw = np.random.default_rng(0)
    label = draw.integers(0, 2, 400).astype(np.int8)
    return pl.DataFrame({
        "domain": draw.integers(0, 4, 400).astype(np.int32),
        "label": label,
        "score": (draw.normal(size=400) + label).astype(np.float32),
        "user": draw.integers(1, 60, 400).astype(np.int32),
    })  # fmt: skip


def test_packed_numbers_differ_by_rounding_only() -> None:
    values = np.random.default_rng(0).normal(size=1_000)
    packed = pack(values)
    assert (packed.num, len(packed.integers)) == (1_000, 2_668)
    assert np.abs(unpack(packed) - values).max() <= packed.scale / 2 * 1.0001
    assert unpack(pack(np.zeros(3))).tolist() == [0.0, 0.0, 0.0]


def test_influence_is_that_of_the_users(frame: pl.DataFrame) -> None:
    stored = influence_of_frame(frame)
    assert (stored.clusters, stored.num_keys, set(stored.metrics)) == (
        "users",
        59,
        {"auc", "gauc", "logloss"},
    )
    rows = RankedRows.of(frame["label"].to_numpy(), frame["score"].to_numpy())
    expected = auc_influence(rows, frame["domain"].to_numpy(), Clusters.of(frame["user"].to_numpy()))
    assert unpack(stored.metrics["auc"]) == pytest.approx(expected.clusters, abs=stored.metrics["auc"].scale)
    assert ClusterInfluence.model_validate_json(stored.model_dump_json()) == stored


def test_rows_of_unknown_users_are_users_of_their_own(frame: pl.DataFrame) -> None:
    unknown = frame.with_columns(pl.when(pl.col("user") < 30).then(0).otherwise(pl.col("user")).alias("user"))
    num_unknown = (unknown["user"] == 0).sum()
    assert influence_of_frame(unknown).num_keys == num_unknown + 30


def test_without_users_rows_are_clusters(frame: pl.DataFrame) -> None:
    stored = influence_of_frame(frame.drop("user"))
    assert (stored.clusters, stored.num_keys) == ("rows", 400)


def test_a_file_has_the_influence_of_its_rows(
    frame: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "predictions.parquet"
    frame.write_parquet(file)
    assert influence_of_file(file) == influence_of_frame(frame)
    monkeypatch.setattr(cluster_influence, "MAX_ROWS", 399)
    assert influence_of_file(file) is None
    assert influence_of_frame(frame) is None


def test_digests_tell_assignments_of_rows_apart(frame: pl.DataFrame) -> None:
    assert influence_of_frame(frame).digest == influence_of_frame(frame.with_columns(score=0.0)).digest
    assert influence_of_frame(frame).digest != influence_of_frame(frame.drop("user")).digest


def test_undefined_metrics_are_left_out(frame: pl.DataFrame) -> None:
    assert set(influence_of_frame(frame.with_columns(label=1)).metrics) == {"logloss"}


@pytest.mark.parametrize(
    "numbers",
    [
        {"scale": 1.0, "integers": "AAA"},
        {"scale": 1.0, "integers": "AA=="},
        {"scale": -1.0, "integers": ""},
        {"scale": 1e300, "integers": ""},
        {"scale": float("nan"), "integers": ""},
    ],
)
def test_damaged_numbers_are_refused(numbers: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PackedNumbers.model_validate(numbers)


def test_metrics_with_different_numbers_of_clusters_are_refused() -> None:
    metrics = {"auc": pack(np.ones(3)), "gauc": pack(np.ones(4))}
    with pytest.raises(ValidationError, match="same number of clusters"):
        ClusterInfluence(clusters="users", num_keys=3, digest="0", metrics=metrics)


def test_keys_of_users_come_before_encoded_ids(frame: pl.DataFrame) -> None:
    keys = frame.with_columns(pl.int_range(pl.len()).floordiv(2).cast(pl.Int64).alias(Column.USER_KEY))
    influence = influence_of_frame(keys)
    assert influence is not None
    assert (influence.clusters, influence.num_keys) == ("users", (frame.height + 1) // 2)
