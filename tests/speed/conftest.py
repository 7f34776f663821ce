"""Tiny made-up rows to measure on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrbench.plugins.registry import select
from ctrbench.speed.training import Case
from ctrbench.speed.workload import Workload, synthetic
from ctrbench.train.config import TrainConfig


@pytest.fixture
def workload() -> Workload:
    """200 rows of 3 domains, 23 fields, embeddings of 4 numbers."""
    return synthetic(rows=200, num_domains=3, embedding_rows=500, embedding_size=4)


@pytest.fixture
def make_case(workload: Workload) -> Callable[..., Case]:
    """Make a case of a method and a backbone, by selectors."""

    def make(method: str = "plain", backbone: str = "dnn[hidden=8-4]", batch_size: int = 64) -> Case:
        return Case(
            method=select("methods", method).value,  # type: ignore[arg-type]
            backbone=select("backbones", backbone).value,  # type: ignore[arg-type]
            workload=workload,
            config=TrainConfig(batch_size=batch_size, embedding_size=4),
        )

    return make
