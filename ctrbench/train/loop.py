"""The training loop: epochs, early stopping on dev, the best weights kept, checkpoints that resume bit for bit.

Everything random in an epoch is a pure function of seed and epoch, so a position in the data is the epoch, the window
of rows and the number of the next batch. The test split is unknown here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ctrbench.data.batches import RowSource, SplitData, Window, subset
from ctrbench.eval.external import DomainTable, Limits, measure_file
from ctrbench.eval.metrics import auc, logloss
from ctrbench.names import Column, Metric
from ctrbench.nn.exchange import Workers
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import Optimizer
from ctrbench.storage.files import Place
from ctrbench.train.checkpoint import load_checkpoint, save_checkpoint
from ctrbench.train.config import TrainConfig
from ctrbench.train.distributed import check_replicas, check_start, check_supported, joined
from ctrbench.train.learner import Learner, StepOutput

REPORT_SECONDS = 0.5
CHECKPOINT_SECONDS = 60.0
STREAMED = Limits(held=1 << 21)
"""Predictions of streamed splits are measured without holding more."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Where training stands, for whoever watches."""

    epoch: int
    epochs: int
    step: int
    steps: int
    """Steps of all epochs, if none is saved by early stopping."""
    loss: float
    rows_per_second: float
    dev_auc: float | None


@dataclass(kw_only=True)
class History:
    """The epoch under way and those before it."""

    epoch: int = 0
    window: int = 0
    batch: int = 0
    rows: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "dev": 0.0})
    loss_sum: float = 0.0
    loss_rows: int = 0
    log_sums: dict[str, float] = field(default_factory=dict)
    log_steps: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -float("inf")
    num_bad: int = 0
    is_done: bool = False
    resumed: int = 0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What training came to; the model holds the best weights."""

    history: History
    steps: int
    notes: dict[str, float | int | str]
    resumed: int


class Trainer:
    """Trains one model; all that changes meanwhile stands in history, model, optimiser and learner."""

    def __init__(
        self,
        *,
        model: CTRModel,
        learner: Learner,
        train: RowSource,
        dev: RowSource,
        config: TrainConfig,
        seed: int,
        workers: Workers | None = None,
    ) -> None:
        """With `workers`, this is one of several processes that train one model, each on its rows of every batch."""
        self.model, self.learner, self.train, self.dev = model, learner, train, dev
        self.config, self.seed, self.workers = config, seed, workers
        if workers is not None:
            check_supported(model, learner)
        self.optimizer = Optimizer(model, config.adam, workers)
        self.history = History()
        self.best: dict[str, Any] = {}
        self.notes: dict[str, float | int | str] = {}

    def fit(
        self,
        *,
        checkpoint: Place | None = None,
        report: Callable[[Tick], None] | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> Fit:
        """Train until dev stops improving or the epochs are over, then restore the best weights."""
        if checkpoint is not None:
            self._resume(checkpoint)
        if self.workers is not None:
            check_start(self.optimizer.steps, self.workers)
        self.model.train()
        watch = _Watch(self, checkpoint, report, checkpoint_seconds)
        while not self.history.is_done:
            self._epoch(watch)
            self._judge()
            watch.save()
        self.model.load_state_dict(self.best["model"])
        self.learner.load_state_dict(self.best["learner"])
        return Fit(
            history=self.history,
            steps=self.optimizer.steps,
            notes=self.best["notes"],
            resumed=self.history.resumed,
        )

    def _epoch(self, watch: _Watch) -> None:
        history = self.history
        for window in self.train.windows((self.seed, history.epoch), first=history.window):
            self._window(window, watch)
            history.window += 1
            history.batch = 0

    def _window(self, window: Window, watch: _Watch) -> None:
        history = self.history
        order = self.learner.order(window.data, batch_size=self.config.batch_size, generator=window.generator)
        planned = round(order.num_batches * self.config.epochs / window.share)
        watch.start(planned)
        workers, cut = self.workers, None if self.workers is None else self.workers.cut
        for batch in window.data.batches(order, first=history.batch, cut=cut):
            output = self.learner.step(self.model, self.optimizer, batch)
            if workers is not None:
                output = joined(output, batch.share, workers)
            self.model.advance(min(1.0, self._progress(window, order.num_batches, planned)))
            watch.add(output)
        watch.collect()

    def _progress(self, window: Window, num_batches: int, planned: int) -> float:
        """Return the share of the planned training that is behind, the step just made included."""
        if window.share == 1.0:
            return self.optimizer.steps / planned
        within = window.before + window.share * (self.history.batch + 1) / num_batches
        return (self.history.epoch + within) / self.config.epochs

    def _judge(self) -> None:
        """Score dev, keep the weights if they are the best so far, and decide whether to go on."""
        history, started = self.history, time.perf_counter()
        self.optimizer.flush()
        if self.workers is not None:
            check_replicas(self.optimizer, self.model, self.workers)
        # Reading the latest rows of a stream takes time, which most methods have no use for.
        if type(self.learner).select is not Learner.select:
            self.notes = self.learner.select(self.model, self.train.latest(), self.dev.latest())
        metrics = self._dev_metrics()
        history.epoch += 1
        history.window = history.batch = 0
        history.epochs.append(
            {
                "epoch": history.epoch,
                "step": self.optimizer.steps,
                "loss": history.loss_sum / max(1, history.loss_rows),
                "dev": metrics,
                "logs": {name: total / history.log_steps for name, total in history.log_sums.items()},
            }
        )
        history.loss_sum, history.loss_rows, history.log_sums, history.log_steps = 0.0, 0, {}, 0
        score = _criterion(metrics)
        self._keep_best(score if self.workers is None else self.workers.agreed(score))
        history.seconds["dev"] += time.perf_counter() - started

    def _dev_metrics(self) -> dict[str, float | None]:
        if isinstance(self.dev, SplitData):
            return dev_metrics(self.dev.label_B.cpu().numpy(), self._scores(self.dev))
        with tempfile.TemporaryDirectory(prefix="ctrbench-") as folder:
            file = Path(folder) / "dev.parquet"
            self._write_dev(file)
            ids = np.arange(self.model.schema.num_domains + 1)
            table = DomainTable(domain=ids, rows_train=np.ones_like(ids), num_bins=1)
            found = measure_file(file, table=table, limits=STREAMED).overall
        return {name: found[name] for name in (Metric.AUC, Metric.LOGLOSS)}

    def _write_dev(self, file: Path) -> None:
        """Write labels and scores, which may be too many to hold."""
        columns = {Column.DOMAIN: pa.int32(), Column.LABEL: pa.int8(), Column.SCORE: pa.float32()}
        with pq.ParquetWriter(file, pa.schema(columns), compression="zstd") as writer:
            for piece in self.dev.pieces():
                rows = (piece.domain_B.cpu().numpy(), piece.label_B.cpu().numpy(), self._scores(piece))
                writer.write_table(pa.table(list(rows), names=list(columns)).cast(writer.schema))

    def _scores(self, piece: SplitData) -> np.ndarray:
        return score_piece(self.model, self.learner, piece, workers=self.workers)[Column.SCORE]

    def _keep_best(self, score: float) -> None:
        history = self.history
        if score > history.best_score or not self.best:
            history.best_score, history.best_epoch, history.num_bad = score, history.epoch, 0
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.best = {"model": weights, "learner": self.learner.state_dict(), "notes": self.notes}
        else:
            history.num_bad += 1
        history.is_done = history.epoch >= self.config.epochs or history.num_bad >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """Return all state."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learner": self.learner.state_dict(),
            "history": vars(self.history),
            "best": self.best,
            "rng": torch.get_rng_state(),
        }

    def _resume(self, checkpoint: Place) -> None:
        state = load_checkpoint(checkpoint)
        if state is None:
            return
        # The optimiser's tables hold the table weights, so it comes after the model.
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.learner.load_state_dict(state["learner"])
        self.history = History(**state["history"])
        self.history.resumed += 1
        self.best = state["best"]
        torch.set_rng_state(state["rng"])


class _Watch:
    """Sums up what steps report, tells the watcher, and saves checkpoints by the clock."""

    def __init__(
        self, trainer: Trainer, checkpoint: Place | None, report: Callable[[Tick], None] | None, every: float
    ) -> None:
        self.trainer, self.checkpoint, self.report, self.every = trainer, checkpoint, report, every
        self.saved = self.told = self.timed = time.perf_counter()
        self.told_rows = 0
        self.steps = 0
        self.pending: list[StepOutput] = []

    def start(self, steps: int) -> None:
        """Begin (or go on with) an epoch of a training planned for that many steps."""
        self.steps = steps
        self.timed = time.perf_counter()

    def add(self, output: StepOutput) -> None:
        """Take note of a step."""
        self.trainer.history.batch += 1
        self.trainer.history.rows += output.rows
        self.pending.append(output)
        now = time.perf_counter()
        if now - self.told >= REPORT_SECONDS:
            self._tell(now)
        if self.checkpoint is not None and now - self.saved >= self.every:
            self.save()

    def collect(self) -> None:
        """Add the steps since the last time to the sums; the only wait for the device."""
        history, now = self.trainer.history, time.perf_counter()
        history.seconds["train"] += now - self.timed
        self.timed = now
        for output in self.pending:
            history.loss_sum += float(output.loss) * output.rows
            history.loss_rows += output.rows
            history.log_steps += 1
            for name, value in output.logs.items():
                history.log_sums[name] = history.log_sums.get(name, 0.0) + float(value)
        self.pending.clear()

    def _tell(self, now: float) -> None:
        history = self.trainer.history
        speed = (history.rows - self.told_rows) / (now - self.told) if self.told_rows else 0.0
        self.told, self.told_rows = now, history.rows
        self.collect()
        if self.report is not None:
            self.report(
                Tick(
                    epoch=history.epoch + 1,
                    epochs=self.trainer.config.epochs,
                    step=self.trainer.optimizer.steps,
                    steps=self.steps,
                    loss=history.loss_sum / max(1, history.loss_rows),
                    rows_per_second=speed,
                    dev_auc=history.best_score if history.epochs else None,
                )
            )

    def save(self) -> None:
        """Write a checkpoint, if there is a place for it."""
        self.collect()
        workers = self.trainer.workers
        if self.checkpoint is not None and (workers is None or workers.rank == 0):
            save_checkpoint(self.checkpoint, self.trainer.state_dict())
        self.saved = time.perf_counter()


def score_piece(
    model: CTRModel, learner: Learner, piece: SplitData, *, workers: Workers | None
) -> dict[str, np.ndarray]:
    """Return the scores of rows; of several workers each scores its part, and all learn all of them."""
    if workers is None or len(piece) < workers.size:
        return learner.score(model, piece)
    part = workers.slice(len(piece))
    own = learner.score(model, subset(piece, np.arange(len(piece))[part]))
    return {name: workers.join(torch.from_numpy(scores)).numpy() for name, scores in own.items()}


def dev_metrics(label: np.ndarray, score: np.ndarray) -> dict[str, float | None]:
    """Return AUC and log-loss of the dev split."""
    return {Metric.AUC: auc(label, score), Metric.LOGLOSS: logloss(label, score)}


def _criterion(metrics: dict[str, float | None]) -> float:
    """Dev AUC; where dev has one class only, the negative log-loss."""
    area, loss = metrics[Metric.AUC], metrics[Metric.LOGLOSS]
    if area is not None:
        return area
    return -loss if loss is not None else -float("inf")
