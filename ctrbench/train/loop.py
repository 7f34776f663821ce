"""The training loop: epochs, early stopping on dev, the best weights kept, checkpoints that resume bit for bit.

Everything random in an epoch is a pure function of seed and epoch, so a position in the data is the epoch and the
number of the next batch. The test split is unknown here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctrbench.data.batches import SplitData
from ctrbench.eval.metrics import auc, logloss
from ctrbench.names import Column, Metric
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import Optimizer
from ctrbench.train.checkpoint import load_checkpoint, save_checkpoint
from ctrbench.train.config import TrainConfig
from ctrbench.train.learner import Learner, StepOutput

REPORT_SECONDS = 0.5
CHECKPOINT_SECONDS = 60.0


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
        train: SplitData,
        dev: SplitData,
        config: TrainConfig,
        seed: int,
    ) -> None:
        self.model, self.learner, self.train, self.dev = model, learner, train, dev
        self.config, self.seed = config, seed
        self.optimizer = Optimizer(model, config.adam)
        self.history = History()
        self.best: dict[str, Any] = {}
        self.notes: dict[str, float | int | str] = {}

    def fit(
        self,
        *,
        checkpoint: Path | None = None,
        report: Callable[[Tick], None] | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> Fit:
        """Train until dev stops improving or the epochs are over, then restore the best weights."""
        if checkpoint is not None:
            self._resume(checkpoint)
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
        generator = np.random.default_rng([self.seed, history.epoch])
        order = self.learner.order(self.train, batch_size=self.config.batch_size, generator=generator)
        planned = order.num_batches * self.config.epochs
        watch.start(planned)
        for batch in self.train.batches(order, first=history.batch):
            output = self.learner.step(self.model, self.optimizer, batch)
            self.model.advance(min(1.0, self.optimizer.steps / planned))
            watch.add(output)
        watch.collect()

    def _judge(self) -> None:
        """Score dev, keep the weights if they are the best so far, and decide whether to go on."""
        history, started = self.history, time.perf_counter()
        self.optimizer.flush()
        self.notes = self.learner.select(self.model, self.train, self.dev)
        metrics = dev_metrics(self.dev, self.learner.score(self.model, self.dev)[Column.SCORE])
        history.epoch += 1
        history.batch = 0
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
        self._keep_best(_criterion(metrics))
        history.seconds["dev"] += time.perf_counter() - started

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

    def _resume(self, checkpoint: Path) -> None:
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
        self, trainer: Trainer, checkpoint: Path | None, report: Callable[[Tick], None] | None, every: float
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
        if self.checkpoint is not None:
            save_checkpoint(self.checkpoint, self.trainer.state_dict())
        self.saved = time.perf_counter()


def dev_metrics(dev: SplitData, score: np.ndarray) -> dict[str, float | None]:
    """Return AUC and log-loss of the dev split."""
    label = dev.label_B.cpu().numpy()
    return {Metric.AUC: auc(label, score), Metric.LOGLOSS: logloss(label, score)}


def _criterion(metrics: dict[str, float | None]) -> float:
    """Dev AUC; where dev has one class only, the negative log-loss."""
    area, loss = metrics[Metric.AUC], metrics[Metric.LOGLOSS]
    if area is not None:
        return area
    return -loss if loss is not None else -float("inf")
