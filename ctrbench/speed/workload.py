"""Rows on which speed is measured: synthetic rows, or a prepared dataset.

The ids of synthetic rows are those of `synthetic.click_log`. Labels are random, since speed does not depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctrbench.data.batches import SplitData
from ctrbench.data.stream import StreamedSplit
from ctrbench.names import Split
from ctrbench.nn.schema import Schema
from ctrbench.runs.grid import usual_window
from ctrbench.runs.run_data import load
from ctrbench.runs.schema import make_schema, synthetic_schema
from ctrbench.synthetic.click_log import BASE_RATE, DOMAINS, field_sizes, synthetic_ids

if TYPE_CHECKING:
    from ctrbench.data.prepared import Prepared
    from ctrbench.runs.record import RunKey


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Training rows and their schema."""

    name: str
    schema: Schema
    data: SplitData


def synthetic(
    *,
    rows: int,
    num_domains: int = DOMAINS,
    embedding_rows: int | None = None,
    embedding_size: int = 16,
    seed: int = 0,
) -> Workload:
    """Generate rows with ids from 1 to the size of a field; 0 (unseen) does not occur."""
    sizes = field_sizes(embedding_rows, num_domains)
    ids_BF = synthetic_ids(rows, sizes, seed)
    domain_B = torch.from_numpy(ids_BF[:, 0].copy())
    label_B = np.random.default_rng([seed, len(sizes)]).random(rows) < BASE_RATE
    return Workload(
        name="synthetic",
        schema=synthetic_schema(ids_BF[:, 0], sizes, embedding_size=embedding_size),
        data=SplitData(
            ids_BF=torch.from_numpy(ids_BF),
            bags=(),
            numeric_BK=torch.empty(rows, 0),
            domain_B=domain_B,
            indicator_B=domain_B,
            label_B=torch.from_numpy(label_B.astype(np.float32)),
            row=np.arange(rows),
            user=None,
            probability=None,
        ),
    )


def from_prepared(prepared: Prepared, key: RunKey, *, embedding_size: int = 16) -> Workload:
    """Read the training rows of a prepared dataset like a run with this key; of streamed rows, the latest window."""
    window = usual_window(prepared)
    train = load(prepared, Split.TRAIN, key) if window is None else _latest_rows(prepared, key, window)
    schema = replace(make_schema(prepared, key), embedding_size=embedding_size)
    return Workload(name=prepared.manifest.name, schema=schema, data=train)


def _latest_rows(prepared: Prepared, key: RunKey, window: int) -> SplitData:
    return StreamedSplit(
        prepared=prepared,
        split=Split.TRAIN,
        domain_set=key.domain_set,
        indicator=key.indicator,
        window=window,
        device=torch.device("cpu"),
    ).latest()
