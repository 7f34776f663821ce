"""One model under training, driven a step at a time as the training loop drives it, for as long as somebody measures.

What is measured is the learner's own step on batches of the learner's own order, so a method that trains in a way of
its own is measured in that way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctrbench.data.batches import Batch
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import Optimizer
from ctrbench.speed.workload import Workload
from ctrbench.train.config import TrainConfig
from ctrbench.train.learner import StepOutput

if TYPE_CHECKING:
    from ctrbench.plugins.base import Backbone, Method

SEED = 1
"""Of weights and the order of rows."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, on what, and in batches of what size."""

    method: Method
    backbone: Backbone
    workload: Workload
    config: TrainConfig
    """Batch size, optimiser and device."""

    @property
    def device(self) -> torch.device:
        """Where model and rows lie."""
        return self.workload.data.label_B.device


class Training:
    """Model, optimiser and learner of a case, and its batches without end."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(SEED)
        plan = case.method.apply(case.backbone.full_plan())
        self.case = case
        self.model = CTRModel(plan, case.workload.schema, seed=SEED).to(case.device)
        self.model.train()
        self.learner = case.method.learner()
        self.optimizer = Optimizer(self.model, case.config.adam)
        self.planned = 1
        """Steps of a whole training, by which methods anneal."""
        self._batches = self._endless()

    def _endless(self) -> Iterator[Batch]:
        data, config = self.case.workload.data, self.case.config
        for epoch in count():
            generator = np.random.default_rng([SEED, epoch])
            order = self.learner.order(data, batch_size=config.batch_size, generator=generator)
            self.planned = order.num_batches * config.epochs
            yield from data.batches(order)

    def next_batch(self) -> Batch:
        """Cut the next batch; at the end of an epoch, draw the order of the next."""
        return next(self._batches)

    def step(self, batch: Batch) -> StepOutput:
        """Make one step."""
        output = self.learner.step(self.model, self.optimizer, batch)
        self.model.advance(min(1.0, self.optimizer.steps / self.planned))
        return output


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
