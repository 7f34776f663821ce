"""Parquet files of predictions, read in chunks: their columns, and their rows as records for external sorting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ctrbench.errors import DataError
from ctrbench.eval.external_sort import Rows, Values
from ctrbench.eval.grouped import check_probabilities
from ctrbench.eval.metrics.base import Floats, ScoredRows, Scores
from ctrbench.eval.oracle import true_logit
from ctrbench.eval.ranking import as_scores, check_scores
from ctrbench.names import Column

NOT_SCORES = frozenset(
    {
        Column.ROW,
        Column.DOMAIN,
        Column.LABEL,
        Column.USER,
        Column.USER_KEY,
        Column.PROBABILITY,
        Column.CEILING,
    }
)
"""Columns of predictions that are not scores; every other column is one."""
POSITIVE = "positive"
"""Field of a record: whether the label is 1."""


def variant_columns(columns: Iterable[str]) -> list[str]:
    """Return the score columns other than the main score."""
    return [name for name in columns if name not in NOT_SCORES | {Column.SCORE}]


@dataclass(frozen=True, kw_only=True)
class PredictionFile:
    """A parquet file of predictions."""

    file: Path
    num_rows: int
    columns: tuple[str, ...]
    chunk: int
    """Rows read at a time."""

    @classmethod
    def open(cls, file: Path, chunk: int) -> PredictionFile:
        """Read the metadata; raises `DataError` for a file that does not hold predictions."""
        try:
            metadata = pq.read_metadata(file)
        except (OSError, pa.ArrowInvalid):
            raise DataError(
                "predictions must be a parquet file", value=file, remedy="repeat the run to write them again"
            ) from None
        columns = tuple(metadata.schema.to_arrow_schema().names)
        missing = {Column.DOMAIN, Column.LABEL, Column.SCORE} - set(columns)
        if missing:
            raise DataError(
                "predictions must have the columns domain, label and score",
                value=f"{file} lacks {sorted(missing)}",
            )
        return cls(file=file, num_rows=metadata.num_rows, columns=columns, chunk=chunk)

    def frames(self, columns: Iterable[str]) -> Iterator[pl.DataFrame]:
        """Yield these columns of all rows, a chunk at a time."""
        with pq.ParquetFile(self.file, pre_buffer=False, buffer_size=2**20) as stream:
            for batch in stream.iter_batches(self.chunk, columns=list(dict.fromkeys(columns))):
                yield pl.DataFrame(pa.Table.from_batches([batch]))


@dataclass(frozen=True)
class Ranking:
    """The column that rows are ranked by: logits, or probabilities, which are converted to logits."""

    column: str
    is_probability: bool = False

    def scores(self, frame: pl.DataFrame) -> Scores:
        """Return the score of each row."""
        values = as_scores(frame[self.column].to_numpy())
        return true_logit(values.astype(np.float64)) if self.is_probability else values

    def is_bad(self, frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
        """Mark the rows without a valid score."""
        values = frame[self.column].to_numpy()
        is_good = (values >= 0) & (values <= 1) if self.is_probability else np.isfinite(values)
        return ~np.asarray(is_good, dtype=bool)

    def check(self, num_bad: int, num_rows: int) -> None:
        """Raise `DataError` where some rows have no valid score."""
        (check_probabilities if self.is_probability else check_scores)(num_bad, num_rows)


TRUTH = Ranking(Column.PROBABILITY, is_probability=True)
CEILING = Ranking(Column.CEILING, is_probability=True)


def is_positive(frame: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Return whether the label of each row is 1."""
    return frame[Column.LABEL].to_numpy().astype(bool)


def scored_rows(frame: pl.DataFrame, ranking: Ranking) -> ScoredRows:
    """Return labels, scores and, where the frame includes it, the true probability."""
    probability: Floats | None = None
    if Column.PROBABILITY in frame.columns:
        probability = frame[Column.PROBABILITY].to_numpy().astype(np.float64)
    return ScoredRows(is_positive=is_positive(frame), score=ranking.scores(frame), probability=probability)


@dataclass(frozen=True, kw_only=True)
class FileRows:
    """Rows of a file as records of a score, a label and further fields; an `external_sort.Source`."""

    predictions: PredictionFile
    ranking: Ranking
    fields: Mapping[str, type[np.generic]]
    """Columns that records keep besides score and label, and their types."""
    without: tuple[str, int] | None = None
    """A column, and the value in it of rows that are left out."""

    @property
    def num_rows(self) -> int:
        """The number of rows, or more."""
        return self.predictions.num_rows

    def chunks(self) -> Iterator[Rows]:
        """Yield all rows."""
        for frame in self.predictions.frames([self.ranking.column, Column.LABEL, *self.fields]):
            selected = self._without_excluded(frame)
            score = self.ranking.scores(selected)
            fields = [(Column.SCORE, score.dtype), (POSITIVE, np.bool_), *self.fields.items()]
            rows = np.empty(selected.height, dtype=np.dtype(fields))
            rows[Column.SCORE], rows[POSITIVE] = score, is_positive(selected)
            for name in self.fields:
                rows[name] = selected[name].to_numpy()
            yield rows

    def values(self, field: str) -> Iterator[Values]:
        """Yield one field of all rows."""
        column = self.ranking.column if field == Column.SCORE else field
        for frame in self.predictions.frames([column, *(self.without or ())[:1]]):
            selected = self._without_excluded(frame)
            yield self.ranking.scores(selected) if field == Column.SCORE else selected[field].to_numpy()

    def _without_excluded(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.filter(pl.col(self.without[0]) != self.without[1]) if self.without else frame


def record_rows(records: Rows) -> ScoredRows:
    """Return labels, scores and, where the records include it, the true probability."""
    has_truth = Column.PROBABILITY in (records.dtype.names or ())
    return ScoredRows(
        is_positive=records[POSITIVE],
        score=records[Column.SCORE],
        probability=records[Column.PROBABILITY] if has_truth else None,
    )
