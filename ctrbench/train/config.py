"""Training settings that the user may change and that are part of a run's key.

The defaults are those of the AdaSparse study for its public data (spec: conventions-0.3). All methods of a table share
them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from ctrbench.added_fields import added_field, unchanged_added_fields
from ctrbench.nn.network import Precision
from ctrbench.nn.optim import AdamConfig
from ctrbench.train.allocator import keep_freed_memory

MOST_HELD = 1 << 23
"""Largest number of training rows that is held in memory by default; larger datasets are streamed."""
WINDOW = 1 << 22
"""Default size in rows of a shuffling window over streamed rows."""


class TrainConfig(BaseModel):
    """Settings of a run that belong to neither the method nor the backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=16, ge=1, le=4_096)
    batch_size: int = Field(default=256, ge=1, le=1 << 24)
    epochs: int = Field(default=10, ge=1, le=10_000)
    """Maximum number of passes over the training rows."""
    evaluations: int = Field(default=5, ge=1, le=1_000)
    """Number of evaluations on dev per epoch, after equal parts of its rows."""
    evaluation_rows: int = Field(default=50_000, ge=1, le=1 << 40)
    """Maximum number of dev rows that an evaluation scores."""
    patience: int = Field(default=5, ge=1, le=10_000)
    """Number of evaluations without a better dev AUC after which training stops."""
    anneal_epochs: float = Field(default=1.0, gt=0, le=10_000, allow_inf_nan=False)
    """Length in epochs of the methods' annealing, such as that of AdaSparse's gates; independent of early stopping."""
    lr: float = Field(default=1e-3, gt=0, le=10, allow_inf_nan=False)
    optimizer: Literal["adam", "lazy_adam"] = "adam"
    """Update of embedding rows that a batch does not contain (spec: adam-12.1)."""
    precision: Precision = added_field("float32")
    """Precision of matrix products after the embeddings; `bf16` is faster on processors with bf16 units and changes
    results."""
    window: int | None = added_field(None, ge=1, le=1 << 40)
    """Number of rows in a shuffling window (`data.stream`); None holds all rows in memory."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(default=1, ge=1, le=1_024)
    """Number of threads per run; several runs in parallel use cores better than several threads."""

    @property
    def key(self) -> dict[str, Any]:
        """Settings that identify a run.

        Settings added later are left out while they have their defaults, so keys of old records still match.
        """
        return self.model_dump(exclude=unchanged_added_fields(self))

    def set_up_process(self) -> None:
        """Set the number of threads of this process and let it keep the memory that a step frees."""
        torch.set_num_threads(self.threads)
        keep_freed_memory()

    @property
    def adam(self) -> AdamConfig:
        """Settings of the optimizer."""
        return AdamConfig(lr=self.lr, embedding_rule=self.optimizer)
