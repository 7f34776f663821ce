"""A method on a backbone as the contract tries it: built, trained or fitted on the synthetic rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctrbench.contract.rows import (
    BATCH_ROWS,
    EMBEDDING_SIZE,
    SEED,
    SHOP_ROWS,
    make_schema,
    make_test_rows,
    make_training_rows,
)
from ctrbench.data.batches import Batch, Order, SplitData
from ctrbench.names import Column
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.train.config import TrainConfig
from ctrbench.train.stepper import Stepper

if TYPE_CHECKING:
    from ctrbench.plugins.base import Fitted, Method

EPOCHS = 3
LR = 0.01
PLANNED_STEPS = EPOCHS * sum(SHOP_ROWS) // BATCH_ROWS


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method, the backbone that it rewrites, and the rows on which both are tried."""

    backbone: str
    method: Method
    plan: Callable[[], Plan]
    """Returns a new plan of the backbone, so that a rewrite cannot change the next one."""
    file: Path
    """File of the method's class, whose lines are named in error messages."""

    def build(self, *, base_rate: float = 0.4) -> CTRModel:
        """Build a new model of the rewritten plan."""
        return CTRModel(self.method.apply(self.plan()), self.schema(base_rate=base_rate), seed=SEED)

    def schema(self, *, base_rate: float = 0.4) -> Schema:
        """Return the schema of the synthetic rows, with the rows per id that the setting `min_count` needs."""
        schema, min_count = make_schema(base_rate), self.method.min_count
        if min_count == 1:
            return schema
        ids_BF = self.train.ids_BF.numpy()
        rows = {
            field.name: np.bincount(ids_BF[:, column], minlength=field.size)
            for column, field in enumerate(schema.single_fields)
        }
        return schema.with_rare_ids(min_count, rows)

    @cached_property
    def train(self) -> SplitData:
        """Rows to train on, all of seen domains."""
        return make_training_rows()

    @cached_property
    def test(self) -> SplitData:
        """Rows to score, unseen domains and values among them."""
        return make_test_rows()

    @cached_property
    def trained(self) -> Training:
        """The method after a few epochs, shared by all rules, which must not train it further."""
        return self._training_history.training

    @cached_property
    def snapshot(self) -> Snapshot:
        """The state of `trained` half-way through its last epoch."""
        return self._training_history.snapshot

    @cached_property
    def _training_history(self) -> _History:
        training = Training(self)
        torch.manual_seed(SEED)
        for epoch in range(EPOCHS - 1):
            training.run(training.batches(self.train, epoch))
        batches = list(training.batches(self.train, EPOCHS - 1))
        half = len(batches) // 2
        training.run(batches[:half])
        training.prepare_scoring(self.train, self.test)
        scores, state = training.score(self.test), training.save()
        torch.manual_seed(SEED)
        losses = training.run(batches[half:])
        snapshot = Snapshot(
            state=state,
            scores=scores,
            batches=batches[half:],
            losses=losses,
            end=copy_tensors(training.model.state_dict()),
        )
        training.prepare_scoring(self.train, self.test)
        return _History(training=training, snapshot=snapshot)

    @cached_property
    def test_scores(self) -> np.ndarray:
        """Scores of the rows to score, all in one call."""
        return self.score(self.test)

    def fit(self, train: SplitData) -> Fitted:
        """Fit the method, which is an estimator, on `train`; the test rows serve as dev rows."""
        estimator = self.method.as_estimator()
        assert estimator is not None
        return estimator.fit(train, self.test, schema=make_schema(), seed=SEED)

    @cached_property
    def fitted(self) -> Fitted:
        """The fitted estimator, shared by all rules."""
        return self.fit(self.train)

    def score(self, data: SplitData) -> np.ndarray:
        """Return the scores of rows from the trained model or the fitted estimator."""
        is_trained = self.method.as_estimator() is None
        return self.trained.score(data) if is_trained else self.fitted.logits(data)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A checkpoint in the middle of an epoch, and the course of training from there."""

    state: BytesIO
    scores: np.ndarray
    """Scores of the rows to score at the checkpoint."""
    batches: list[Batch]
    """The remaining batches of the epoch."""
    losses: list[float]
    """Their losses, with torch's global random state set to `SEED` before the first one."""
    end: dict[str, torch.Tensor]
    """State of the model after them."""


@dataclass(frozen=True, kw_only=True)
class _History:
    training: Training
    snapshot: Snapshot


class Training:
    """A model under training on the synthetic rows."""

    def __init__(self, case: Case, *, base_rate: float = 0.4, lr: float = LR) -> None:
        self.model = case.build(base_rate=base_rate)
        self.start = copy_tensors(self.model.state_dict())
        config = TrainConfig(embedding_size=EMBEDDING_SIZE, batch_size=BATCH_ROWS, epochs=EPOCHS, lr=lr)
        self.stepper = Stepper(self.model, case.method.learner(), config, planned_steps=PLANNED_STEPS)
        self.learner, self.optimizer = self.stepper.learner, self.stepper.optimizer
        self.losses: list[float] = []

    def order(self, data: SplitData, epoch: int = 0) -> Order:
        """Return the learner's order of an epoch."""
        return self.stepper.order(data, np.random.default_rng([SEED, epoch]))

    def batches(self, data: SplitData, epoch: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, except those of a single row, which have their own rule."""
        return (batch for batch in data.batches(self.order(data, epoch)) if len(batch) > 1)

    def run(self, batches: Iterable[Batch]) -> list[float]:
        """Make one step per batch and return the losses."""
        losses = [float(self.stepper.step(batch).loss) for batch in batches]
        self.losses += losses
        return losses

    def prepare_scoring(self, train: SplitData, dev: SplitData) -> None:
        """Apply deferred updates and let the learner select on dev, as a run does before scoring."""
        self.optimizer.flush()
        self.learner.select(self.model, train, dev)

    def score(self, data: SplitData) -> np.ndarray:
        """Return the scores that a run would record."""
        return np.asarray(self.learner.score(self.model, data)[Column.SCORE])

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of the model itself, in eval mode."""
        self.model.eval()
        with torch.no_grad():
            logits: torch.Tensor = self.model(batch)
        self.model.train()
        return logits

    def save(self) -> BytesIO:
        """Return the state of training as a checkpoint in memory."""
        file = BytesIO()
        torch.save(self.stepper.state_dict(), file)
        return file

    def load(self, file: BytesIO) -> None:
        """Resume from a checkpoint."""
        file.seek(0)
        self.stepper.load_state_dict(torch.load(file, weights_only=True))


def copy_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a copy of a state_dict and its tensors."""
    return {name: value.clone() for name, value in state.items()}


def changed_tensors(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of the tensors that differ between two states of a model."""
    return [name for name, value in before.items() if not torch.equal(value, after[name])]
