"""Scores and metrics of the dev split, by which the best weights of a run are chosen.

Evaluations during training score a fixed sample of the rows, the same for all methods and seeds, so that their cost
does not grow with the data. The best weights are then scored on the whole split.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ctrbench.data.batches import RowSource, SplitData, concatenated, subset
from ctrbench.eval.arrays import auc, logloss
from ctrbench.eval.evaluate import measure_file
from ctrbench.eval.external import Limits
from ctrbench.eval.measures import DomainTable
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.logloss import LogLoss
from ctrbench.names import Column
from ctrbench.nn.exchange import Workers
from ctrbench.nn.model import CTRModel
from ctrbench.train.learner import Learner

Metrics = dict[str, float | None]
"""Dev metrics by name; None = undefined."""
STREAMED = Limits(held=1 << 21)
"""Memory limit in measuring the predictions of streamed splits."""


def sample_rows(data: RowSource, count: int) -> SplitData:
    """Return at most `count` rows of a split in memory, at equal distances in time order."""
    total = len(data)
    if total <= count:
        return data.in_memory() or concatenated(list(data.pieces()))
    rows, start, parts = np.arange(count) * total // count, 0, []
    for piece in data.pieces():
        own = rows[(rows >= start) & (rows < start + len(piece))] - start
        if len(own):
            parts.append(subset(piece, own))
        start += len(piece)
    return concatenated(parts)


def score_piece(
    model: CTRModel, learner: Learner, piece: SplitData, *, workers: Workers | None
) -> dict[str, np.ndarray]:
    """Return the scores of rows; each of several workers scores a part and receives the scores of all rows."""
    if workers is None or len(piece) < workers.size:
        return learner.score(model, piece)
    part = workers.slice(len(piece))
    own_scores = learner.score(model, subset(piece, np.arange(len(piece))[part]))
    return {
        name: workers.concatenate(torch.from_numpy(scores)).numpy() for name, scores in own_scores.items()
    }


def dev_metrics(label: np.ndarray, score: np.ndarray) -> Metrics:
    """Return AUC and log-loss of the dev split."""
    return {Auc.name: auc(label, score), LogLoss.name: logloss(label, score)}


def measure_dev(model: CTRModel, learner: Learner, dev: RowSource, *, workers: Workers | None) -> Metrics:
    """Score dev and return its metrics; streamed rows are measured on disk, since they may not fit into memory."""
    rows = dev.in_memory()
    if rows is not None:
        scores = score_piece(model, learner, rows, workers=workers)[Column.SCORE]
        return dev_metrics(rows.label_B.cpu().numpy(), scores)
    with tempfile.TemporaryDirectory(prefix="ctrbench-") as folder:
        file = Path(folder) / "dev.parquet"
        _write_scores(model, learner, dev, file, workers=workers)
        ids = np.arange(model.schema.num_domains + 1)
        table = DomainTable(domain=ids, rows_train=np.ones_like(ids), num_bins=1)
        overall = measure_file(file, table=table, limits=STREAMED).overall
    return {name: overall[name] for name in (Auc.name, LogLoss.name)}


def _write_scores(
    model: CTRModel, learner: Learner, dev: RowSource, file: Path, *, workers: Workers | None
) -> None:
    columns = {Column.DOMAIN: pa.int32(), Column.LABEL: pa.int8(), Column.SCORE: pa.float32()}
    with pq.ParquetWriter(file, pa.schema(columns), compression="zstd") as writer:
        for piece in dev.pieces():
            scores = score_piece(model, learner, piece, workers=workers)[Column.SCORE]
            rows = (piece.evaluation_domain, piece.label_B.cpu().numpy(), scores)
            writer.write_table(pa.table(list(rows), names=list(columns)).cast(writer.schema))


def selection_score(metrics: Metrics) -> float:
    """Return the score by which weights are chosen: dev AUC, or minus the log-loss if dev has one class only."""
    area, loss = metrics[Auc.name], metrics[LogLoss.name]
    if area is not None:
        return area
    return -loss if loss is not None else -float("inf")
