"""The training step: the only code that drives a learner, for training runs, the contract and the speed benchmark.

A step is the learner's step on one batch; stages that anneal then receive the share of annealing that is done, which
has a length of its own. `Stepper` owns everything that a step changes, so a checkpoint consists of its state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ctrbench.data.batches import Batch, Order, SplitData, Window
from ctrbench.nn.exchange import Workers
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import Optimizer
from ctrbench.train.config import TrainConfig
from ctrbench.train.distributed import check_supported, sum_over_workers
from ctrbench.train.learner import Learner, StepOutput
from ctrbench.train.loaded_state import check_matches, check_optimizer


class Stepper:
    """A model under training with its learner and optimizer."""

    def __init__(
        self,
        model: CTRModel,
        learner: Learner,
        config: TrainConfig,
        *,
        workers: Workers | None = None,
        planned_steps: int | None = None,
    ) -> None:
        """Make the optimizer and put the model into training mode.

        With `workers`, this process is one of several that train one model, each on its rows of every batch; raises
        `SettingError` if the model or the learner does not support that. `planned_steps` is the length of the whole
        training (default: derived from every order that is drawn).
        """
        if workers is not None:
            check_supported(model, learner)
        self.model, self.learner, self.config, self.workers = model, learner, config, workers
        self.optimizer = Optimizer(model, model.common.adam(config.adam), workers, seed=model.seed)
        self.planned_steps = planned_steps or 1
        """Steps of the whole training, ignoring early stopping."""
        self._is_length_fixed = planned_steps is not None
        model.train()

    def order(self, data: SplitData, generator: np.random.Generator, *, share: float = 1.0) -> Order:
        """Draw the learner's order of the rows, which are `share` of an epoch, and set the number of planned steps."""
        order = self.learner.order(data, batch_size=self.config.batch_size, generator=generator)
        if not self._is_length_fixed:
            self.planned_steps = round(order.num_batches * self.config.epochs / share)
        return order

    def step(self, batch: Batch, *, progress: float | None = None) -> StepOutput:
        """Make one training step and return its output over the rows of all workers.

        `progress` is the share of the whole training done after this step (default: steps made / steps planned).
        """
        self._set_lr(progress)
        output = self.learner.step(self.model, self.optimizer, batch)
        if self.workers is not None:
            output = sum_over_workers(output, batch.share, self.workers)
        # After the step: a learner may make several optimizer steps per batch.
        done = self.optimizer.steps / self.planned_steps if progress is None else progress
        self.model.advance(min(1.0, done * self.config.epochs / self.config.anneal_epochs))
        return output

    def _set_lr(self, progress: float | None) -> None:
        """Set the learning rate of a step with this progress after it."""
        common, planned = self.model.common, self.planned_steps
        if common.lr_schedule != "constant":
            done = self.optimizer.steps / planned if progress is None else progress - 1.0 / planned
            factor = common.lr_factor(done, planned, self.config.epochs)
            self.optimizer.lr = self.optimizer.config.lr * factor

    def steps(self, window: Window, order: Order, *, epoch: int, first: int = 0) -> Iterator[StepOutput]:
        """Make one step per batch of a window, from batch number `first` on, and yield the outputs."""
        cut = None if self.workers is None else self.workers.cut
        for index, batch in enumerate(window.data.batches(order, first=first, cut=cut), start=first):
            progress = None
            # Of streamed rows only the window's number of batches is known, so steps cannot be planned exactly.
            if window.share != 1.0:
                within = window.before + window.share * (index + 1) / order.num_batches
                progress = (epoch + within) / self.config.epochs
            yield self.step(batch, progress=progress)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of model, optimizer and learner."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learner": self.learner.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state returned by `state_dict`; raises `CheckpointMismatchError` for a state that does not fit."""
        check_matches(state["model"], self.model.state_dict(), "model")
        check_optimizer(state["optimizer"], self.optimizer)
        # The optimizer shares the tables' weights with the model, so it is loaded after the model.
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.learner.load_state_dict(state["learner"])
