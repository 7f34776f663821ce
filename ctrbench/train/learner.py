"""Learners: the order of the training rows, the training step, selection on dev, and scoring.

The default `Learner` is ordinary mini-batch training. A method that trains differently (MAML, PCGrad) returns a
subclass from `Method.learner`; any state that it needs to resume goes through `state_dict`. The optional abilities of a
learner are class attributes, so that nothing has to find out which methods a subclass overrides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.nn import functional

from ctrbench.data.batches import Batch, Order, SplitData, domain_order, mixed_order
from ctrbench.eval.arrays import auc
from ctrbench.names import Column
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import Optimizer

EVAL_ROWS = 8192
"""Number of rows per batch in scoring."""


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """Result of one training step; its tensors stay on the device until they are read."""

    loss: torch.Tensor
    """Mean binary cross-entropy of the batch, without regularizers."""
    rows: int
    """Number of rows that the step used."""
    logs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Scalars for the log, by name."""


class Learner:
    """Ordinary training on mini-batches of mixed rows or of one domain each (spec: star-2.3).

    Optional to override:
        order(train, batch_size, generator): the rows of an epoch, cut into batches.
        step(model, optimizer, batch): one training step, together with `refuses_workers`.
        select(model, train, dev): choices made on dev after every epoch, together with `selects = True`.
        score(model, data): the logits of rows.
        state_dict(), load_state_dict(state): the state that the learner needs to resume.

    Class attributes:
        selects: whether `select` is overridden; False by default.
        refuses_workers: reason why several processes cannot share this training, or None, the default. A class that
            overrides `step` has to set it.

    `order` receives the training rows in time order, or one window of them after the other if the data are streamed.
    All randomness comes from its `generator`, so that an interrupted epoch can be repeated.

    >>> class Oversampled(Learner):
    ...     '''Visits every row of a positive label twice.'''
    ...
    ...     def order(self, train, *, batch_size, generator):
    ...         rows = np.concatenate([np.arange(len(train)), np.flatnonzero(train.label_B.numpy())])
    ...         starts = np.append(np.arange(0, len(rows), batch_size), len(rows))
    ...         return Order(rows=generator.permutation(rows), starts=starts)
    >>> Oversampled().selects, Oversampled().refuses_workers
    (False, None)
    """

    selects: ClassVar[bool] = False
    """Whether `select` makes a choice on dev."""
    refuses_workers: ClassVar[str | None] = None
    """Reason why several processes cannot share this training; None if they give the results of one process."""

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401  # as in `object`
        super().__init_subclass__(**kwargs)
        _check_declarations(cls)

    def __init__(self, *, batching: Literal["mixed", "domain"] = "mixed") -> None:
        self.batching = batching

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Return the rows of one epoch in the order of visit; by default every row once."""
        if self.batching == "domain":
            return domain_order(train.indicator_B.cpu().numpy(), batch_size, generator)
        return mixed_order(len(train), batch_size, generator)

    def step(self, model: CTRModel, optimizer: Optimizer, batch: Batch) -> StepOutput:
        """Make one optimizer step; the caller advances annealing and counts steps."""
        optimizer.begin(batch.share)
        context = model.context(batch, optimizer)
        loss = bce(model.net(context), batch.label_B)
        torch.autograd.backward(total_loss(loss * batch.weight, context))
        optimizer.step()
        return StepOutput(loss=loss.detach(), rows=len(batch), logs=context.logs)

    def select(self, model: CTRModel, train: SplitData, dev: SplitData) -> dict[str, float | int | str]:
        """Choose open settings of the method on dev and return the choices for the record.

        Called before dev is scored, after every epoch, if `selects` is true.
        """
        return {}

    def score(self, model: CTRModel, data: SplitData) -> dict[str, np.ndarray]:
        """Return logits (B,), float32, under `Column.SCORE`, and any further scores under other names."""
        return {Column.SCORE: score_rows(model, data)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the learner needs to resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state returned by `state_dict`."""


def _check_declarations(learner: type[Learner]) -> None:
    """Raise `TypeError` if the declared abilities of a learner contradict the methods that it overrides."""
    name = learner.__name__
    overrides_select = learner.select is not Learner.select
    if overrides_select is not learner.selects:
        state = "overrides select" if overrides_select else "does not override select"
        raise TypeError(f"{name} {state}, so it must declare selects = {overrides_select}")
    bases = learner.__mro__[: learner.__mro__.index(Learner)]
    if learner.step is not Learner.step and not any("refuses_workers" in vars(base) for base in bases):
        raise TypeError(
            f"{name} overrides step, so it must declare refuses_workers: the reason why several processes cannot share "
            "its training, or None"
        )


def bce(logit_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    """Compute the mean binary cross-entropy from logits."""
    return functional.binary_cross_entropy_with_logits(logit_B, label_B)


def total_loss(loss: torch.Tensor, context: Context) -> torch.Tensor:
    """Add the penalties of a forward pass to a loss."""
    for penalty in context.penalties:
        loss = loss + penalty
    return loss


@contextmanager
def evaluating(model: CTRModel) -> Iterator[None]:
    """Set the model to eval mode within a `with` statement."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def score_rows(model: CTRModel, data: SplitData, *, batch_size: int = EVAL_ROWS) -> np.ndarray:
    """Return the logits (B,) of all rows in their order, computed in eval mode."""
    with evaluating(model), torch.no_grad():
        logits = torch.cat([model(batch) for batch in data.in_order(batch_size)])
    scores: np.ndarray = logits.float().cpu().numpy()
    return scores


def dev_auc(data: SplitData, scores: np.ndarray) -> float | None:
    """Return the AUC of scores, for learners that choose on dev; None if dev has one class only."""
    return auc(data.label_B.cpu().numpy(), scores)
