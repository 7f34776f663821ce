"""The training loop: epochs, early stopping on dev, restoring the best weights, and bit-identical resuming.

All randomness of an epoch is a pure function of seed and epoch. A position in the training data is therefore the epoch,
the number of the window and the number of the next batch. The loop never sees the test split.
"""

from __future__ import annotations

import math
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
from ctrbench.errors import SettingError
from ctrbench.eval.arrays import auc, logloss
from ctrbench.eval.evaluate import measure_file
from ctrbench.eval.external import Limits
from ctrbench.eval.measures import DomainTable
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.logloss import LogLoss
from ctrbench.names import Column
from ctrbench.nn.exchange import Workers
from ctrbench.nn.model import CTRModel
from ctrbench.train.checkpoint import Checkpoint, CheckpointMismatchError
from ctrbench.train.config import TrainConfig
from ctrbench.train.distributed import check_replicas, check_start
from ctrbench.train.learner import Learner, StepOutput
from ctrbench.train.stepper import Stepper

PROGRESS_SECONDS = 0.5
"""Shortest time between two calls of the progress callback."""
CHECKPOINT_SECONDS = 60.0
"""Default time between two checkpoints."""
STREAMED = Limits(held=1 << 21)
"""Memory limit in measuring the predictions of streamed splits."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Progress of a training run."""

    epoch: int
    """Number of the current epoch, from 1."""
    epochs: int
    step: int
    """Number of optimizer steps made."""
    steps: int
    """Steps of all epochs, an upper bound that ignores early stopping."""
    loss: float
    """Mean loss of the current epoch."""
    rows_per_second: float
    dev_auc: float | None
    """Best dev AUC; None before the end of the first epoch."""


@dataclass(kw_only=True)
class History:
    """Position in the training data and results of all epochs; a checkpoint stores its attributes."""

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
    """Result of training; the model holds the best weights."""

    history: History
    steps: int
    notes: dict[str, float | int | str]
    """Choices that the learner made on dev."""
    resumed: int
    """Number of times that training was resumed from a checkpoint."""


class Trainer:
    """Trains one model; all state is in the stepper (model, optimizer, learner) and the history."""

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
        self.stepper = Stepper(model, learner, config, workers=workers)
        self.model, self.learner, self.optimizer = model, learner, self.stepper.optimizer
        self.train, self.dev = train, dev
        self.config, self.seed, self.workers = config, seed, workers
        self.history = History()
        self.best: dict[str, Any] = {}
        self.notes: dict[str, float | int | str] = {}

    def fit(
        self,
        *,
        checkpoint: Checkpoint | None = None,
        progress: Callable[[Tick], None] | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> Fit:
        """Train until dev stops improving or all epochs are done, then restore the best weights.

        Resumes from the checkpoint if it exists, and writes it every `checkpoint_seconds` and after each epoch. Raises
        `CheckpointMismatchError` if the checkpoint does not fit; the trainer and its model are then half restored.
        """
        if checkpoint is not None:
            self._resume(checkpoint)
        if self.workers is not None:
            check_start(self.optimizer.steps, self.workers)
        monitor = _Monitor(self, checkpoint, progress, checkpoint_seconds)
        while not self.history.is_done:
            self._train_epoch(monitor)
            self._evaluate()
            monitor.save()
        self.model.load_state_dict(self.best["model"])
        self.learner.load_state_dict(self.best["learner"])
        return Fit(
            history=self.history,
            steps=self.optimizer.steps,
            notes=self.best["notes"],
            resumed=self.history.resumed,
        )

    def _train_epoch(self, monitor: _Monitor) -> None:
        history = self.history
        for window in self.train.windows((self.seed, history.epoch), first=history.window):
            self._train_window(window, monitor)
            history.window += 1
            history.batch = 0

    def _train_window(self, window: Window, monitor: _Monitor) -> None:
        history = self.history
        order = self.stepper.order(window.data, window.generator, share=window.share)
        monitor.start(self.stepper.planned_steps)
        for output in self.stepper.steps(window, order, epoch=history.epoch, first=history.batch):
            monitor.add(output)
        monitor.collect()

    def _evaluate(self) -> None:
        """Score dev, keep the weights if they are the best so far, and decide whether to stop."""
        history, started = self.history, time.perf_counter()
        if not math.isfinite(history.loss_sum):
            value = f"{history.loss_sum} in epoch {history.epoch + 1}"
            raise SettingError("the training loss must be finite", value=value, remedy="set a smaller --lr")
        self.optimizer.flush()
        if self.workers is not None:
            check_replicas(self.optimizer, self.model, self.workers)
        # Reading the latest rows of a stream takes time, and most learners choose nothing.
        if self.learner.selects:
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
        score = _selection_score(metrics)
        self._keep_best(score if self.workers is None else self.workers.from_first(score))
        history.seconds["dev"] += time.perf_counter() - started

    def _dev_metrics(self) -> dict[str, float | None]:
        dev = self.dev.in_memory()
        if dev is not None:
            return dev_metrics(dev.label_B.cpu().numpy(), self._score_rows(dev))
        with tempfile.TemporaryDirectory(prefix="ctrbench-") as folder:
            file = Path(folder) / "dev.parquet"
            self._write_dev(file)
            ids = np.arange(self.model.schema.num_domains + 1)
            table = DomainTable(domain=ids, rows_train=np.ones_like(ids), num_bins=1)
            overall = measure_file(file, table=table, limits=STREAMED).overall
        return {name: overall[name] for name in (Auc.name, LogLoss.name)}

    def _write_dev(self, file: Path) -> None:
        """Write labels and scores of a streamed dev split, which may not fit into memory."""
        columns = {Column.DOMAIN: pa.int32(), Column.LABEL: pa.int8(), Column.SCORE: pa.float32()}
        with pq.ParquetWriter(file, pa.schema(columns), compression="zstd") as writer:
            for piece in self.dev.pieces():
                rows = (piece.evaluation_domain, piece.label_B.cpu().numpy(), self._score_rows(piece))
                writer.write_table(pa.table(list(rows), names=list(columns)).cast(writer.schema))

    def _score_rows(self, piece: SplitData) -> np.ndarray:
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
        """Return the state of the whole training, for a checkpoint."""
        return {
            **self.stepper.state_dict(),
            "history": vars(self.history),
            "best": self.best,
            "rng": torch.get_rng_state(),
        }

    def _resume(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.load()
        if state is None:
            return
        try:
            self.stepper.load_state_dict(state)
            self.history = History(**state["history"])
            self.history.resumed += 1
            self.best = state["best"]
            torch.set_rng_state(state["rng"])
        except Exception as error:
            # Written by another version of ctrbench or of a plug-in; the objects may be half restored.
            raise CheckpointMismatchError(f"{type(error).__name__}: {error}") from error


class _Monitor:
    """Sums step outputs, calls the progress callback, and saves checkpoints at intervals."""

    def __init__(
        self,
        trainer: Trainer,
        checkpoint: Checkpoint | None,
        progress: Callable[[Tick], None] | None,
        checkpoint_seconds: float,
    ) -> None:
        self.trainer, self.checkpoint, self.progress = trainer, checkpoint, progress
        self.checkpoint_seconds = checkpoint_seconds
        self.saved = self.shown = self.timed = time.perf_counter()
        self.shown_rows = 0
        self.planned_steps = 0
        self.pending: list[StepOutput] = []

    def start(self, planned_steps: int) -> None:
        """Start or resume the clock for a window of rows."""
        self.planned_steps = planned_steps
        self.timed = time.perf_counter()

    def add(self, output: StepOutput) -> None:
        """Record a step."""
        self.trainer.history.batch += 1
        self.trainer.history.rows += output.rows
        self.pending.append(output)
        now = time.perf_counter()
        if now - self.shown >= PROGRESS_SECONDS:
            self._show_progress(now)
        if self.checkpoint is not None and now - self.saved >= self.checkpoint_seconds:
            self.save()

    def collect(self) -> None:
        """Add pending steps to the sums of the epoch; the only point that waits for the device."""
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

    def _show_progress(self, now: float) -> None:
        history = self.trainer.history
        rows_per_second = (history.rows - self.shown_rows) / (now - self.shown) if self.shown_rows else 0.0
        self.shown, self.shown_rows = now, history.rows
        self.collect()
        if self.progress is not None:
            self.progress(
                Tick(
                    epoch=history.epoch + 1,
                    epochs=self.trainer.config.epochs,
                    step=self.trainer.optimizer.steps,
                    steps=self.planned_steps,
                    loss=history.loss_sum / max(1, history.loss_rows),
                    rows_per_second=rows_per_second,
                    dev_auc=history.best_score if history.epochs else None,
                )
            )

    def save(self) -> None:
        """Write a checkpoint, if a file for it is set; of several workers, only the first one writes."""
        self.collect()
        workers = self.trainer.workers
        if self.checkpoint is not None and (workers is None or workers.rank == 0):
            self.checkpoint.save(self.trainer.state_dict())
        self.saved = time.perf_counter()


def score_piece(
    model: CTRModel, learner: Learner, piece: SplitData, *, workers: Workers | None
) -> dict[str, np.ndarray]:
    """Return the scores of rows; each of several workers scores a part and receives the scores of all rows."""
    if workers is None or len(piece) < workers.size:
        return learner.score(model, piece)
    part = workers.slice(len(piece))
    own_scores = learner.score(model, subset(piece, np.arange(len(piece))[part]))
    return {
        name: workers.concatenate(torch.from_numpy(scores)).numpy() for name, scores in own_scores.items()
    }


def dev_metrics(label: np.ndarray, score: np.ndarray) -> dict[str, float | None]:
    """Return AUC and log-loss of the dev split."""
    return {Auc.name: auc(label, score), LogLoss.name: logloss(label, score)}


def _selection_score(metrics: dict[str, float | None]) -> float:
    """Return the score by which the best epoch is chosen: dev AUC, or minus the log-loss if dev has one class only."""
    area, loss = metrics[Auc.name], metrics[LogLoss.name]
    if area is not None:
        return area
    return -loss if loss is not None else -float("inf")
