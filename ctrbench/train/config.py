"""Everything about training that the user may set, and that the run's key holds.

The defaults are the AdaSparse study's for its public data (METHODS 0.3), and the same for every method of a table.
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from ctrbench.nn.model import Precision
from ctrbench.nn.optim import AdamConfig

MOST_HELD = 1 << 23
"""Training rows that are held whole unless a window is asked for."""
WINDOW = 1 << 22
"""Rows of a window where none is asked for."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of two parameters in glibc's malloc.h."""


class TrainConfig(BaseModel):
    """Settings of a run that belong to no method and no backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_size: int = Field(default=16, ge=1)
    batch_size: int = Field(default=256, ge=1)
    epochs: int = Field(default=2, ge=1)
    """Passes over the training rows at most; schedules are planned for all of them."""
    patience: int = Field(default=1, ge=1)
    """Epochs without a better dev AUC after which training stops."""
    lr: float = Field(default=1e-3, gt=0)
    optimizer: Literal["adam", "lazy_adam"] = "adam"
    """What happens to embedding rows that a batch does not touch (METHODS 12)."""
    precision: Precision = "float32"
    """Of matrix products behind the embeddings; `bf16` is faster where the processor has it, and moves results."""
    window: int | None = Field(default=None, ge=1)
    """Rows held for shuffling (`data.stream`); None: all of them."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(default=1, ge=1)
    """Threads of one run; more runs side by side use cores better than more threads do."""

    @property
    def key(self) -> dict[str, Any]:
        """What a run's key holds. A setting younger than the first records is left out where it is off."""
        later = {"precision": "float32", "window": None}
        return self.model_dump(
            exclude={name for name, value in later.items() if getattr(self, name) == value}
        )

    def set_up_process(self) -> None:
        """Give this process its threads, and let it keep the memory that a step frees for the next one."""
        torch.set_num_threads(self.threads)
        keep_freed_memory()

    @property
    def adam(self) -> AdamConfig:
        """The optimiser's settings."""
        return AdamConfig(lr=self.lr, embedding_rule=self.optimizer)


def keep_freed_memory() -> None:
    """Raise the C library's thresholds above which freed memory goes back to the system, where it has such.

    Otherwise every large tensor of a step is mapped, and its pages are cleared, anew: 3 to 10 % of a step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # Older versions refuse more than 32 MiB.
    _ = mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_THRESHOLD, 32 << 20)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
