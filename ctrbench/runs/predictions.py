"""The files that a run writes besides its record: predictions of the test split, and the method's inspection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ctrbench.data.batches import RowSource, SplitData
from ctrbench.eval.cluster_influence import influence_of_file, influence_of_frame
from ctrbench.eval.evaluate import measure_file, measure_frame
from ctrbench.eval.measures import DomainTable, Measures
from ctrbench.names import Column
from ctrbench.plugins.inspection import Inspection
from ctrbench.storage.files import Location, replacing, sha256_of
from ctrbench.train.dev import STREAMED

Scorer = Callable[[SplitData], dict[str, np.ndarray]]
"""Function that returns the scores of rows by name of the column."""


def predictions_frame(data: SplitData, scores: dict[str, np.ndarray]) -> pl.DataFrame:
    """Return predictions with one row per row of the data.

    Columns: row, domain, label and the scores; user, user_key, probability and ceiling where the data include them.
    """
    columns: dict[str, np.ndarray | None] = {
        Column.ROW: data.row,
        Column.DOMAIN: data.evaluation_domain,
        Column.LABEL: data.label_B.cpu().numpy().astype(np.int8),
        **scores,
        Column.USER: data.user,
        Column.USER_KEY: data.user_key,
        Column.PROBABILITY: data.probability,
        Column.CEILING: data.ceiling,
    }
    return pl.DataFrame({name: values for name, values in columns.items() if values is not None})


def write_predictions(
    data: RowSource, score: Scorer, table: DomainTable, file: Location
) -> tuple[Measures, str]:
    """Write the predictions of a split as one parquet file; return their metrics and the file's sha256.

    The file appears when it is complete. Streamed rows are scored and written in pieces.
    """
    with replacing(file) as part:
        rows = data.in_memory()
        if rows is not None:
            frame = predictions_frame(rows, score(rows))
            frame.write_parquet(part, compression="zstd")
            measures = replace(measure_frame(frame, table=table), influence=influence_of_frame(frame))
            return measures, sha256_of(part)
        _write_frames((predictions_frame(piece, score(piece)) for piece in data.pieces()), part)
        measures = measure_file(part, table=table, limits=STREAMED)
        return replace(measures, influence=influence_of_file(part)), sha256_of(part)


def _write_frames(frames: Iterator[pl.DataFrame], file: Path) -> None:
    first = next(frames).to_arrow()
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for frame in frames:
            writer.write_table(frame.to_arrow())


def write_inspection(inspection: Inspection | None, sha256: str, file: Location) -> None:
    """Write an inspection with the sha256 of the predictions of the same model; None writes no file."""
    if inspection is not None:
        arrays = replace(inspection, predictions=sha256).arrays()
        with replacing(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
