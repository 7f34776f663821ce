"""A small synthetic workload, and cases on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrbench.plugins.registry import select
from ctrbench.speed.training import SpeedCase
from ctrbench.speed.workload import Workload, synthetic
from ctrbench.train.config import TrainConfig


@pytest.fixture
def workload() -> Workload:
    """200 rows of 3 domains, 23 fields, embeddings of size 4."""
    return synthetic(rows=200, num_domains=3, embedding_rows=500, embedding_size=4)


@pytest.fixture
def make_case(workload: Workload) -> Callable[..., SpeedCase]:
    """Return a function from selectors of a method and a backbone to a case."""

    def make(method: str = "plain", backbone: str = "dnn[hidden=8-4]", batch_size: int = 64) -> SpeedCase:
        return SpeedCase(
            method=select("methods", method).value,
            backbone=select("backbones", backbone).value,
            workload=workload,
            config=TrainConfig(batch_size=batch_size, embedding_size=4),
        )

    return make
