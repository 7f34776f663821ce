"""The worker of ctrbench: training steps on synthetic rows, an epoch of a prepared dataset, the metrics.

A step includes cutting its batch from the rows in memory; the batches of peers are prepared in advance.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from worker import Opened, serve

from ctrbench.data.batches import SplitData
from ctrbench.data.load import load_split
from ctrbench.data.prepared import open_prepared
from ctrbench.eval.grouped import overall
from ctrbench.names import Column, Split
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select
from ctrbench.runs.record import RunKey
from ctrbench.runs.schema import make_schema
from ctrbench.speed.workload import Workload, synthetic
from ctrbench.train.config import TrainConfig
from ctrbench.train.stepper import Stepper

DOMAIN = "field0"
METRIC_DOMAINS = 5_000
TRAFFIC_EXPONENT = 0.805


class Training:
    """A model in training as in `ctrbench run`, without dev and checkpoints."""

    def __init__(self, schema: Schema, method: str, backbone: str, batch_size: int) -> None:
        rewriter, base = select("methods", method).value, select("backbones", backbone).value
        model = CTRModel(rewriter.apply(base.full_plan()), schema, seed=1)  # type: ignore[union-attr]
        learner = rewriter.learner()  # type: ignore[union-attr]
        self.stepper = Stepper(model, learner, TrainConfig(batch_size=batch_size, epochs=1))

    def epoch(self, data: SplitData) -> Iterator[int]:
        """Make the steps of an epoch and yield the number of rows of each."""
        order = self.stepper.order(data, np.random.default_rng(0))
        for batch in data.batches(order):
            yield self.stepper.step(batch).rows

    def endless(self, data: SplitData) -> Iterator[int]:
        """Repeat the epoch without end."""
        while True:
            yield from self.epoch(data)

    @property
    def num_parameters(self) -> int:
        """Number of all trainable parameters."""
        return sum(self.stepper.model.num_parameters().values())


@lru_cache(maxsize=1)
def workload(rows: int, shape: tuple[tuple[str, int], ...]) -> Workload:
    """Generate the rows, once for all cases of a contest."""
    return synthetic(rows=rows, **dict(shape))


def load(request: dict[str, Any]) -> None:
    """Load the rows, before memory is measured."""
    if request["kind"] == "steps":
        workload(request["rows"], tuple(request["shape"].items()))


def steps(request: dict[str, Any]) -> Opened:
    """Open training steps of a method on a backbone."""
    synthetic_rows = workload(request["rows"], tuple(request["shape"].items()))
    training = Training(synthetic_rows.schema, request["method"], request["backbone"], request["batch"])
    rows_of_steps = training.endless(synthetic_rows.data)

    def turn(seconds: float) -> int:
        end = time.perf_counter() + seconds
        rows = next(rows_of_steps)
        while time.perf_counter() < end:
            rows += next(rows_of_steps)
        return rows

    return Opened(turn=turn, parameters=training.num_parameters)


def epoch(request: dict[str, Any]) -> Opened:
    """Open an epoch of a prepared dataset, read from its shards in every turn or kept in memory."""
    prepared = open_prepared(request["dataset"], Path(request["home"]))

    def read() -> SplitData:
        return load_split(prepared, Split.TRAIN, domain_set="default", indicator=DOMAIN)

    in_memory = read()
    key = RunKey.model_construct(
        domain_set="default",
        indicator=DOMAIN,
        domain_features=(DOMAIN,),
        train={"embedding_size": TrainConfig().embedding_size},
    )
    training = Training(make_schema(prepared, key), "plain", "dnn", request["batch"])
    is_in_memory = request["source"] == "memory"

    def turn(_seconds: float) -> int:
        return sum(training.epoch(in_memory if is_in_memory else read()))

    return Opened(turn=turn, parameters=training.num_parameters)


def metrics(request: dict[str, Any]) -> Opened:
    """Open the computation of every metric of a record, on float32 scores as models return them."""
    rng, rows = np.random.default_rng(0), request["rows"]
    traffic = np.arange(1, METRIC_DOMAINS + 1) ** -TRAFFIC_EXPONENT
    score = rng.normal(-2, 1, rows).astype(np.float32)
    frame = pl.DataFrame(
        {
            Column.DOMAIN: rng.choice(METRIC_DOMAINS, rows, p=traffic / traffic.sum()).astype(np.int32) + 1,
            Column.LABEL: (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(np.int8),
            Column.SCORE: score,
        }
    )

    def turn(_seconds: float) -> int:
        overall(frame)
        return frame.height

    return Opened(turn=turn)


if __name__ == "__main__":
    TrainConfig(threads=int(sys.argv[1])).set_up_process()
    kinds = {"steps": steps, "epoch": epoch, "metrics": metrics}
    serve(lambda request: kinds[request["kind"]](request), load)
