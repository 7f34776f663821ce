from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from ctrbench.data.batches import SplitData
from ctrbench.eval.cluster_influence import influence_of_frame
from ctrbench.eval.evaluate import measure_frame
from ctrbench.eval.measures import DomainTable
from ctrbench.plugins.inspection import Inspection
from ctrbench.runs.predictions import predictions_frame, write_inspection, write_predictions

TABLE = DomainTable(domain=np.arange(19), rows_train=np.r_[0, np.arange(1, 19)], num_bins=5)


def score(data: SplitData) -> dict[str, np.ndarray]:
    return {"score": np.linspace(-1, 1, len(data), dtype=np.float32)}


def test_columns_are_left_out_where_the_data_do_not_include_them(data: SplitData) -> None:
    frame = predictions_frame(replace(data, user=None), score(data))
    assert frame.columns == ["row", "domain", "label", "score"]
    known = replace(data, probability=np.full(len(data), 0.5), ceiling=np.full(len(data), 0.25))
    assert predictions_frame(known, score(data)).columns[4:] == ["user", "probability", "ceiling"]


def test_written_predictions_have_the_returned_metrics_and_digest(data: SplitData, tmp_path: Path) -> None:
    file = tmp_path / "predictions.parquet"
    measures, sha256 = write_predictions(data, score, TABLE, file)
    written = pl.read_parquet(file)
    assert written.equals(predictions_frame(data, score(data)))
    assert measures.overall == measure_frame(written, table=TABLE).overall
    assert measures.influence == influence_of_frame(written)
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_inspection_is_written_with_the_digest_of_the_predictions(tmp_path: Path) -> None:
    inspection = Inspection(domain_D=np.array([1]), rows_D=np.array([5]), sites=())
    file = tmp_path / "inspection.npz"
    write_inspection(inspection, "abc", file)
    with np.load(file) as arrays:
        assert Inspection.from_arrays(arrays).predictions == "abc"


def test_without_an_inspection_no_file_is_written(tmp_path: Path) -> None:
    write_inspection(None, "abc", tmp_path / "inspection.npz")
    assert list(tmp_path.iterdir()) == []
