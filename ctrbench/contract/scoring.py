"""Rules about scores: their shape, and that a row's score depends on nothing but the row and the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from ctrbench.contract.case import Case, Training, changed_tensors, copy_tensors
from ctrbench.contract.rows import BATCH_ROWS, NUM_SHOPS, SEED, take_rows
from ctrbench.contract.rule import TOLERANCE, largest_difference, list_names, rule
from ctrbench.data.batches import Batch
from ctrbench.nn.model import CTRModel
from ctrbench.nn.stages import StageModule
from ctrbench.train.learner import bce, total_loss


@rule("logits", "Logits have shape (B,) and are finite, and each stage returns the width that it declares.")
def logits(case: Case) -> str | None:
    """Check logits, learner scores and the widths of all stages on the rows to score."""
    training, num_rows = case.trained, len(case.test)
    with _wrong_widths(training.model) as wrong:
        logits_B = training.logits(case.test.slice(0, num_rows))
    if wrong:
        return wrong[0]
    if logits_B.shape != (num_rows,) or not torch.isfinite(logits_B).all():
        actual = (
            f"shape {tuple(logits_B.shape)}" if logits_B.shape != (num_rows,) else "some that are not finite"
        )
        return f"expected finite logits of shape ({num_rows},), but got {actual}"
    for name, scores in training.learner.score(training.model, case.test).items():
        if scores.shape != (num_rows,) or not np.isfinite(scores).all():
            return (
                f"expected the learner's score() to return one finite number per row, but {name!r} does not"
            )
    return None


@contextmanager
def _wrong_widths(model: CTRModel) -> Iterator[list[str]]:
    """Collect messages about stages whose output has another shape than their `num_outputs` declares."""
    wrong: list[str] = []

    def compare(module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        expected = [len(inputs[0]), module.num_outputs]
        if list(output.shape) != expected:
            kind = type(module).__name__
            shapes = f"shape {list(output.shape)}, and its num_outputs says {expected}"
            wrong.append(f"expected {kind} to return the width that it declares, but it returned {shapes}")

    stages = [module for module in model.modules() if isinstance(module, StageModule)]
    handles = [stage.register_forward_hook(compare) for stage in stages]
    try:
        yield wrong
    finally:
        for handle in handles:
            handle.remove()


@rule("batch of one", "A batch of one row can be scored and trained on.")
def batch_of_one(case: Case) -> str | None:
    """Check a row of each shop in scoring, and the last batch of an epoch, of one row, in training."""
    for row in range(NUM_SHOPS + 1):
        shape = tuple(case.trained.logits(case.test.slice(row, row + 1)).shape)
        if shape != (1,):
            return (
                f"expected one row to give logits of shape (1,), but got {shape}; look for a bare squeeze()"
            )
    training = Training(case)
    training.run(islice(training.batches(case.train), 2))
    order = training.order(case.train)
    losses = training.run(batch for batch in case.train.batches(order) if len(batch) == 1)
    if any(not math.isfinite(loss) for loss in losses):
        return (
            f"expected a training step on a single row to work, but its loss was {losses[0]}; "
            "the last batch of an epoch may hold one row, whose variance is zero or undefined"
        )
    return None


@rule("row order", "The order of rows changes neither their scores nor the training loss.")
def row_order(case: Case) -> str | None:
    """Check scores and the training loss with permuted rows."""
    return scoring_order.check(case) or _training_order(case)


@rule("row order", "The order of rows does not change their scores.")
def scoring_order(case: Case) -> str | None:
    """Check scores with permuted rows."""
    rows = np.random.default_rng(SEED).permutation(len(case.test))
    difference = largest_difference(case.score(take_rows(case.test, rows)), case.test_scores[rows])
    if difference > TOLERANCE:
        return (
            f"expected the same logits for the same rows in another order, but they differ by {difference:.1e}; "
            "look for an operation along the batch axis"
        )
    return None


def _training_order(case: Case) -> str | None:
    rows = torch.randperm(BATCH_ROWS)
    in_order, shuffled = case.train.take(torch.arange(BATCH_ROWS)), case.train.take(rows)
    model = case.trained.model
    first, again, other = (training_loss(model, batch).item() for batch in (in_order, in_order, shuffled))
    # A loss that differs on equal batches is random, which training may be.
    if first == again and abs(first - other) > TOLERANCE * max(1.0, abs(first)):
        return (
            "expected the training loss of a batch not to depend on the order of its rows, but it went from "
            f"{first:.6f} to {other:.6f}; look for an operation along the batch axis"
        )
    return None


def training_loss(model: CTRModel, batch: Batch) -> torch.Tensor:
    """Return the loss of a batch from a copy of the model in training mode."""
    return batch_loss(deepcopy(model).train(), batch)


def batch_loss(model: CTRModel, batch: Batch) -> torch.Tensor:
    """Return the loss of a batch with the penalties of all stages."""
    context = model.context(batch)
    return total_loss(bce(model.net(context), batch.label_B), context)


@rule("batch independence", "In scoring, the score of a row does not depend on the other rows of its batch.")
def batch_independence(case: Case) -> str | None:
    """Compare the scores of a row of each shop, alone and in a batch."""
    in_batch = case.test_scores
    for row in range(0, 3 * (NUM_SHOPS + 1), 3):
        alone = case.score(take_rows(case.test, [row]))
        if largest_difference(alone, in_batch[row : row + 1]) > TOLERANCE:
            return (
                f"expected a row to get the same logit alone as in a batch, but it got {alone[0]:.6f} alone and "
                f"{in_batch[row]:.6f} in a batch of {len(in_batch)} in eval mode; look for moments of the batch, or "
                "rows that attend to each other"
            )
    return None


@rule("repeatable scores", "Scoring twice gives equal scores and changes nothing in the model.")
def repeatable_scores(case: Case) -> str | None:
    """Score twice and compare scores, and the model before and after."""
    model = case.trained.model
    before = copy_tensors(model.state_dict())
    sentence = equal_scores.check(case)
    if sentence is not None:
        return sentence
    changed = changed_tensors(before, model.state_dict())
    if changed:
        return (
            f"expected scoring to change nothing, but it changed {list_names(changed)}; change state in training "
            "mode only"
        )
    return None


@rule("repeatable scores", "Scoring twice gives equal scores.")
def equal_scores(case: Case) -> str | None:
    """Score twice and compare the scores."""
    first, again = case.test_scores, case.score(case.test)
    if not np.array_equal(first, again):
        return (
            f"expected two evaluations to agree, but logits differ by {largest_difference(first, again):.1e}; look "
            "for randomness, or for state that changes with every forward pass, in eval mode"
        )
    return None


@rule("unseen domain", "Rows of domains not seen in training (id 0) have finite scores.")
def unseen_domain(case: Case) -> str | None:
    """Score rows of unseen shops, and the same rows with every id unseen."""
    unseen = take_rows(case.test, np.flatnonzero(case.test.indicator_B.numpy() == 0))
    ids_BF = torch.zeros_like(unseen.ids_BF)
    for data in (unseen, replace(unseen, ids_BF=ids_BF, domain_B=torch.zeros_like(unseen.domain_B))):
        if not np.isfinite(case.score(data)).all():
            return (
                "expected finite logits for rows of a domain not seen in training (domain and indicator 0), but "
                "some are not finite; row 0 of a domain table is for unseen domains and has no training rows"
            )
    return None
