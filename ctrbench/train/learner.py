"""How a model is trained: the order of rows, the step, and how rows are scored.

The default `Learner` is ordinary mini-batch training. A method that changes how training goes (MAML) brings a
subclass; whatever else it needs to go on after an interruption goes through `state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from ctrbench.data.batches import Batch, Order, SplitData, domain_order, mixed_order
from ctrbench.eval.metrics import auc
from ctrbench.names import Column
from ctrbench.nn.model import Context, CTRModel
from ctrbench.nn.optim import Optimizer

EVAL_ROWS = 8192
"""Rows scored at a time."""


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one step reports; tensors stay on the device until somebody asks."""

    loss: torch.Tensor
    """Mean binary cross-entropy of the batch, without regularisers."""
    rows: int
    logs: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Learner:
    """Ordinary training on mini-batches, mixed or of one domain each (METHODS 2.3)."""

    def __init__(self, *, batching: Literal["mixed", "domain"] = "mixed") -> None:
        self.batching = batching

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Return the rows of one epoch in the order of visit; every row once unless the method says otherwise."""
        if self.batching == "domain":
            return domain_order(train.indicator_B.cpu().numpy(), batch_size, generator)
        return mixed_order(len(train), batch_size, generator)

    def step(self, model: CTRModel, optimizer: Optimizer, batch: Batch) -> StepOutput:
        """Make one optimiser step; the caller anneals and counts."""
        optimizer.begin(batch.share)
        context = model.context(batch, optimizer)
        loss = bce(model.net(context), batch.label_B)
        torch.autograd.backward(total_loss(loss * batch.weight, context))
        optimizer.step()
        return StepOutput(loss=loss.detach(), rows=len(batch), logs=context.logs)

    def select(self, model: CTRModel, train: SplitData, dev: SplitData) -> dict[str, float | int | str]:
        """Choose on dev what the method leaves open, before dev is scored; return the choice for the record."""
        return {}

    def score(self, model: CTRModel, data: SplitData) -> dict[str, np.ndarray]:
        """Return logits (float32, one a row) under `Column.SCORE`, and any further scores under names of their own."""
        return {Column.SCORE: score_rows(model, data)}

    def state_dict(self) -> dict[str, Any]:
        """Return what the learner needs to go on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""


def bce(logit_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy from logits."""
    return functional.binary_cross_entropy_with_logits(logit_B, label_B)


def total_loss(loss: torch.Tensor, context: Context) -> torch.Tensor:
    """Add what the stages of the forward pass add to the loss."""
    for penalty in context.penalties:
        loss = loss + penalty
    return loss


def score_rows(model: CTRModel, data: SplitData, *, batch_size: int = EVAL_ROWS) -> np.ndarray:
    """Return the logits of all rows, in their order, in eval mode."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in data.in_order(batch_size)])
    model.train(was_training)
    scores: np.ndarray = logits.float().cpu().numpy()
    return scores


def dev_auc(data: SplitData, scores: np.ndarray) -> float | None:
    """Return the AUC of scores, for learners that choose on dev; None if a class is missing."""
    return auc(data.label_B.cpu().numpy(), scores)
