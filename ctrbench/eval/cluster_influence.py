"""Influence of test users on the metrics of a run, as records store it.

Reports compute uncertainty over users from the records alone: predictions are too large to be published with them.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq

from ctrbench.eval.grouped import ranked_rows
from ctrbench.eval.influence import INFLUENCES, Clusters
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import Floats
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.eval.metrics.logloss import LogLoss
from ctrbench.eval.stored import ClusterInfluence, PackedNumbers
from ctrbench.names import UNSEEN, Column

STORED_METRICS = (Auc.name, Gauc.name, LogLoss.name)
MAX_ROWS = 10_000_000
"""Largest test split whose influence is computed: about 100 bytes of memory per row."""
_LARGEST = 2**15 - 1


def influence_of_file(file: Path) -> ClusterInfluence | None:
    """Return the influence of the clusters of a file of predictions; None for more than `MAX_ROWS` rows."""
    if pq.read_metadata(file).num_rows > MAX_ROWS:
        return None
    names = pq.read_schema(file).names
    columns = [Column.DOMAIN, Column.LABEL, Column.SCORE, Column.USER, Column.USER_KEY]
    return influence_of_frame(pl.read_parquet(file, columns=[name for name in columns if name in names]))


def influence_of_frame(predictions: pl.DataFrame) -> ClusterInfluence | None:
    """Return the influence of each user (without users: row); None for more than `MAX_ROWS` rows.

    Without keys of users, each row of a user without training rows is a user of its own.
    """
    if predictions.height > MAX_ROWS:
        return None
    kind, keys = _cluster_keys(predictions)
    clusters = Clusters.of(keys)
    rows = ranked_rows(predictions.select(Column.LABEL, Column.SCORE))
    domain = predictions[Column.DOMAIN].to_numpy()
    influences = {name: INFLUENCES[name](rows, domain, clusters) for name in STORED_METRICS}
    return ClusterInfluence(
        clusters=kind,
        num_keys=clusters.num_keys,
        digest=hashlib.sha256(clusters.index.astype("<i8").tobytes()).hexdigest()[:16],
        metrics={
            name: pack(influence.clusters)
            for name, influence in influences.items()
            if np.isfinite(influence.value)
        },
    )


def pack(values: Floats) -> PackedNumbers:
    """Return numbers as 16-bit integers: rounded to 1/32767 of the largest one."""
    largest = float(np.abs(values).max(initial=0.0))
    scale = largest / _LARGEST
    integers = np.rint(values / scale if scale > 0 else np.zeros(values.size)).astype("<i2")
    return PackedNumbers(scale=scale, integers=b64encode(integers.tobytes()).decode("ascii"))


def unpack(packed: PackedNumbers) -> Floats:
    """Return the numbers that `pack` was given, but for rounding."""
    integers = np.frombuffer(b64decode(packed.integers), dtype="<i2")
    values: Floats = packed.scale * integers.astype(np.float64)
    return values


def _cluster_keys(
    predictions: pl.DataFrame,
) -> tuple[Literal["users", "rows"], npt.NDArray[np.int64]]:
    if Column.USER_KEY in predictions.columns:
        return "users", predictions[Column.USER_KEY].to_numpy().astype(np.int64)
    own = -1 - np.arange(predictions.height, dtype=np.int64)
    if Column.USER not in predictions.columns:
        return "rows", own
    user = predictions[Column.USER].to_numpy().astype(np.int64)
    return "users", np.where(user == UNSEEN, own, user)
