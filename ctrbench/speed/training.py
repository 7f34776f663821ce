"""A model under training on a workload, driven one step at a time for as long as it is measured.

Steps and batch orders are those of the method's learner, so a method with its own training is measured with it.
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
from ctrbench.speed.workload import Workload
from ctrbench.train.config import TrainConfig
from ctrbench.train.learner import StepOutput
from ctrbench.train.stepper import Stepper

if TYPE_CHECKING:
    from ctrbench.plugins.base import Backbone, Method

SEED = 1
"""Seed of the initial weights and of the order of rows."""


@dataclass(frozen=True, kw_only=True)
class SpeedCase:
    """A method on a backbone, and the workload that it is trained on."""

    method: Method
    backbone: Backbone
    workload: Workload
    config: TrainConfig
    """Batch size, optimizer settings and device."""

    @property
    def device(self) -> torch.device:
        """Device of the model and the rows."""
        return self.workload.data.label_B.device


class EndlessTraining:
    """A case under training, with an endless sequence of batches."""

    def __init__(self, case: SpeedCase) -> None:
        torch.manual_seed(SEED)
        plan = case.method.apply(case.backbone.full_plan())
        self.case = case
        self.model = CTRModel(plan, case.workload.schema, seed=SEED).to(case.device)
        self.stepper = Stepper(self.model, case.method.learner(), case.config)
        self.learner, self.optimizer = self.stepper.learner, self.stepper.optimizer
        self._batches = self._endless_batches()

    def _endless_batches(self) -> Iterator[Batch]:
        data = self.case.workload.data
        for epoch in count():
            yield from data.batches(self.stepper.order(data, np.random.default_rng([SEED, epoch])))

    def next_batch(self) -> Batch:
        """Return the next batch; at the end of an epoch, draw the order of the next one."""
        return next(self._batches)

    def step(self, batch: Batch) -> StepOutput:
        """Run one training step on a batch and return its loss."""
        return self.stepper.step(batch)


def wait(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
