"""Rows on which speed is measured: synthetic rows, or a prepared dataset.

Synthetic rows have the shape of a common CTR log: 23 fields of one id each, the domain among them, with 200,808 ids in
all. The ids of a field and the rows of a domain follow power laws. Labels are random, since speed does not depend on
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctrbench.data.batches import SplitData
from ctrbench.data.stream import StreamedSplit
from ctrbench.names import Split
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.runs.grid import usual_window
from ctrbench.runs.inputs import load, make_schema

if TYPE_CHECKING:
    from ctrbench.data.prepared import Prepared
    from ctrbench.runs.record import RunKey

FIELD_SIZES = (
    100_000, 50_000, 25_000, 12_000, 6_000, 3_000, 1_500, 1_000, 600, 400, 300,
    200, 150, 100, 80, 60, 40, 30, 20, 15, 8, 5,
)  # fmt: skip
"""Number of ids of each of the 22 fields other than the domain."""
DOMAINS = 300
"""Default number of domains."""
DOMAIN_EXPONENT = 0.805
"""The k-th largest domain has rows in proportion to k^-0.805, as on a large display-advertising platform."""
ID_EXPONENT = 1.0
"""The k-th most frequent id of a field has rows in proportion to 1 / k."""
BASE_RATE = 0.25


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Training rows and their schema."""

    name: str
    schema: Schema
    data: SplitData


ROLES = {1: "user", 2: "item"}
"""Roles of fields by index, for methods that need them; all other fields are context."""


def field_sizes(embedding_rows: int | None = None, num_domains: int = DOMAINS) -> tuple[int, ...]:
    """Return the number of ids of each field, the domain first; `embedding_rows` scales the other fields."""
    if embedding_rows is None:
        return (num_domains, *FIELD_SIZES)
    factor = (embedding_rows - num_domains) / sum(FIELD_SIZES)
    return (num_domains, *(max(2, round(size * factor)) for size in FIELD_SIZES))


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
        schema=Schema(
            fields=tuple(
                FieldShape(
                    name=f"field{index}", kind="categorical", role=ROLES.get(index, "context"), size=size + 1
                )
                for index, size in enumerate(sizes)
            ),
            embedding_size=embedding_size,
            domain_features=("field0",),
            num_domains=num_domains,
            indicator_rows=tuple(np.bincount(ids_BF[:, 0], minlength=num_domains + 1).tolist()),
            base_rate=BASE_RATE,
        ),
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


def synthetic_ids(rows: int, sizes: Sequence[int], seed: int) -> np.ndarray:
    """Draw ids (B, F), int32, from one power law per field; the first field is the domain."""
    ids_BF = np.empty((rows, len(sizes)), dtype=np.int32)
    for index, size in enumerate(sizes):
        exponent = DOMAIN_EXPONENT if index == 0 else ID_EXPONENT
        ids_BF[:, index] = _power_law(rows, size, exponent, np.random.default_rng([seed, index]))
    return ids_BF


def _power_law(rows: int, size: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Draw ids 1..size with probability in proportion to rank^-exponent; ranks are assigned to ids at random."""
    cumulative = np.cumsum(np.arange(1, size + 1) ** -exponent)
    rank = np.searchsorted(cumulative, rng.random(rows) * cumulative[-1], side="right")
    ids: np.ndarray = rng.permutation(size)[np.minimum(rank, size - 1)] + 1
    return ids
