"""An epoch of batches through the shards on disk, against the same from memory."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ctrbench.data.batches import Order, SplitData, mixed_order
from ctrbench.data.load import load_split
from ctrbench.data.prepared import Prepared
from ctrbench.names import Split


def load(prepared: Prepared) -> SplitData:
    return load_split(prepared, Split.TRAIN, domain_set="default", indicator="field0")


def visit(data: SplitData, order: Order) -> int:
    """Cut every batch of an epoch; return the rows."""
    return sum(len(batch) for batch in data.batches(order))


@pytest.mark.parametrize("batch_size", [256, 4096])
@pytest.mark.parametrize("place", ["memory", "shards"])
def test_an_epoch(benchmark: BenchmarkFixture, prepared: Prepared, place: str, batch_size: int) -> None:
    data = load(prepared)
    order = mixed_order(len(data), batch_size, np.random.default_rng(0))
    benchmark.group = f"an epoch of {len(data):,} rows, batches of {batch_size}"
    benchmark.extra_info["batches"] = order.num_batches
    epoch = {
        "memory": lambda: visit(data, order),
        "shards": lambda: visit(load(prepared), order),
    }
    rows = benchmark.pedantic(epoch[place], rounds=9, warmup_rounds=1)
    assert rows == len(data)
