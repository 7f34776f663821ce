"""The training loop: epochs, evaluations on dev, early stopping, the best weights, and bit-identical resuming.

All randomness of an epoch is a pure function of seed and epoch. A position in the training data is therefore the epoch,
the number of the window and the number of the next batch. The loop never sees the test split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ctrbench.data.batches import RowSource, Window
from ctrbench.errors import SettingError
from ctrbench.nn.exchange import Workers
from ctrbench.nn.model import CTRModel
from ctrbench.train.checkpoint import Checkpoint, CheckpointMismatchError
from ctrbench.train.config import TrainConfig
from ctrbench.train.dev import Metrics, measure_dev, sample_rows, selection_score
from ctrbench.train.distributed import check_replicas, check_start
from ctrbench.train.history import History
from ctrbench.train.learner import Learner, StepOutput
from ctrbench.train.loaded_state import check_dictionaries, check_history, check_keys, check_matches
from ctrbench.train.stepper import Stepper

PROGRESS_SECONDS = 0.5
"""Shortest time between two calls of the progress callback."""
BEST = ("model", "learner", "notes")
"""Parts of the state of the best evaluation."""
CHECKPOINT_SECONDS = 60.0
"""Default time between two checkpoints."""


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
    """Mean loss since the last evaluation."""
    rows_per_second: float
    dev_auc: float | None
    """Best dev AUC; None before the first evaluation."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Result of training; the model holds the best weights."""

    history: History
    dev: Metrics
    """Metrics of the best weights on all dev rows."""
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
        self.dev_sample = sample_rows(dev, config.evaluation_rows)
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
        """Train until dev stops improving or all epochs are done, then restore the weights of the best evaluation.

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
            monitor.save()
        self.model.load_state_dict(self.best["model"])
        self.learner.load_state_dict(self.best["learner"])
        started = time.perf_counter()
        metrics = self._measure(self.dev)
        self.history.seconds["dev"] += time.perf_counter() - started
        return Fit(
            history=self.history,
            dev=metrics,
            steps=self.optimizer.steps,
            notes=self.best["notes"],
            resumed=self.history.resumed,
        )

    def _train_epoch(self, monitor: _Monitor) -> None:
        """Train for the rest of an epoch, with its evaluations; after the last one the epoch is over."""
        history = self.history
        for window in self.train.windows((self.seed, history.epoch), first=history.window):
            self._train_window(window, monitor)
            if history.is_done:
                return
            history.window += 1
            history.batch = 0
        history.end_epoch()
        self._evaluate(float(history.epoch))

    def _train_window(self, window: Window, monitor: _Monitor) -> None:
        """Train on the rest of a window, until training is done."""
        history = self.history
        order = self.stepper.order(window.data, window.generator, share=window.share)
        monitor.start(self.stepper.planned_steps)

        def evaluate_if_due() -> None:
            done = window.before + window.share * history.batch / order.num_batches
            mark = int(done * self.config.evaluations + 1e-9)
            # The last evaluation of an epoch follows its last window. Shares of windows are rounded.
            if mark > history.mark and done < 1 - 1e-9:
                history.mark = mark
                monitor.collect()
                self._evaluate(history.epoch + mark / self.config.evaluations)
                monitor.restart()

        # A checkpoint may lie between a step and the evaluation after it.
        evaluate_if_due()
        steps = self.stepper.steps(window, order, epoch=history.epoch, first=history.batch)
        while not history.is_done and (output := next(steps, None)) is not None:
            monitor.add(output)
            evaluate_if_due()
        monitor.collect()

    def _evaluate(self, epoch: float) -> None:
        """Score dev, keep the weights if they are the best so far, and decide whether to stop."""
        history, started = self.history, time.perf_counter()
        if not math.isfinite(history.loss_sum):
            value = f"{history.loss_sum} in epoch {math.ceil(epoch)}"
            raise SettingError("the training loss must be finite", value=value, remedy="set a smaller --lr")
        self.optimizer.flush()
        if self.workers is not None:
            check_replicas(self.optimizer, self.model, self.workers)
        # Reading the latest rows of a stream takes time, and most learners choose nothing.
        if self.learner.selects:
            self.notes = self.learner.select(self.model, self.train.latest(), self.dev_sample)
        metrics = self._measure(self.dev_sample)
        history.add_evaluation(epoch=epoch, step=self.optimizer.steps, dev=metrics)
        score = selection_score(metrics)
        if history.add_score(score if self.workers is None else self.workers.from_first(score)):
            self._keep_best()
        history.is_done = history.epoch >= self.config.epochs or history.num_bad >= self.config.patience
        history.seconds["dev"] += time.perf_counter() - started

    def _measure(self, rows: RowSource) -> Metrics:
        return measure_dev(self.model, self.learner, rows, workers=self.workers)

    def _keep_best(self) -> None:
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.best = dict(zip(BEST, (weights, self.learner.state_dict(), self.notes), strict=True))

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
            check_dictionaries(state, ("optimizer", "history"))
            check_dictionaries(state["optimizer"], ("dense", "tables"))
            self.stepper.load_state_dict(state)
            check_history(state["history"], vars(History()))
            check_matches(state["rng"], torch.get_rng_state(), "rng")
            check_keys(state["best"], BEST if state["history"]["evaluations"] else (), "best")
            if state["history"]["evaluations"]:
                check_matches(state["best"]["model"], self.model.state_dict(), "best.model")
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
        self.restart()

    def restart(self) -> None:
        """Restart the clock after time that is not training."""
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
        """Add pending steps to the sums of the history; the only point that waits for the device."""
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
                    dev_auc=history.best_score if history.evaluations else None,
                )
            )

    def save(self) -> None:
        """Write a checkpoint, if a file for it is set; of several workers, only the first one writes."""
        self.collect()
        workers = self.trainer.workers
        if self.checkpoint is not None and (workers is None or workers.rank == 0):
            self.checkpoint.save(self.trainer.state_dict())
        self.saved = time.perf_counter()
