"""Rules about training: finite numbers, a gradient for every parameter, valid epoch orders and penalties."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch

from ctrbench.contract.case import Case, Training
from ctrbench.contract.domains import domain_tables
from ctrbench.contract.rows import BATCH_ROWS, NUM_SHOPS, SHOP_ROWS
from ctrbench.contract.rule import list_names, rule
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.tables import RowTable

MIN_ROWS = 8
"""Training rows of a domain from which on its parameters must have changed."""


@rule("finite training", "Losses and weights stay finite in training.", is_required=True)
def finite_training(case: Case) -> str | None:
    """Check every loss of a few epochs, and the weights afterwards."""
    training = case.trained
    for step, loss in enumerate(training.losses, start=1):
        if not math.isfinite(loss):
            return (
                f"expected a finite loss at every training step, but step {step} gave {loss}; "
                "look for a logarithm, a root or a division whose argument can be zero"
            )
    wrong = [name for name, value in training.model.named_parameters() if not torch.isfinite(value).all()]
    if wrong:
        return f"expected finite weights after {len(training.losses)} steps, but {list_names(wrong)} are not finite"
    return None


@rule("gradients", "Training changes every parameter, and the embedding of every field and domain.")
def gradients(case: Case) -> str | None:
    """Compare all parameters at the start and after a few epochs."""
    training = case.trained
    state = training.model.state_dict()
    exempt = _prefixes_of_few_rows(training.model)
    unchanged = [
        name
        for name, value in training.model.named_parameters()
        if value.requires_grad
        and torch.equal(training.start[name], state[name])
        and not name.startswith(exempt)
    ]
    unchanged += [f"the embedding of {name}" for name in _unchanged_fields(training)]
    unchanged += list(_unchanged_domains(training))
    if not unchanged:
        return None
    return (
        f"expected every parameter to learn, but {list_names(unchanged)} never changed in {len(training.losses)} "
        "steps: unused, detached, behind a step function, or in a table that is read without context.read"
    )


def _prefixes_of_few_rows(model: CTRModel) -> tuple[str, ...]:
    """Return the prefixes of parameters that only a small domain uses, whose rows may give no gradient.

    The model of a domain with a single row is trained on batches of one row only, which are left out here.
    """
    if not model.is_separate:
        return ()
    small = [index for index in range(NUM_SHOPS) if SHOP_ROWS[index] < MIN_ROWS]
    single = [index for index in range(NUM_SHOPS) if SHOP_ROWS[index] == 1]
    poolings = [f"embedding.poolings.{index}." for index in small]
    models = [f"{part}.{index}." for index in single for part in ("embedding.tables", "net.networks")]
    return (*poolings, *models)


def _unchanged_fields(training: Training) -> Iterator[str]:
    """Yield the names of fields of which no embedding row changed."""
    modules = training.model.embedding.named_modules()
    keys = [f"embedding.{name}.weight" for name, module in modules if isinstance(module, RowTable)]
    state = training.model.state_dict()
    changed = torch.stack([(training.start[key] != state[key]).any(1) for key in keys]).any(0)
    first = 0
    for field in training.model.schema.table_fields:
        if not changed[first : first + field.size].any():
            yield field.name
        first += field.size


def _unchanged_domains(training: Training) -> Iterator[str]:
    """Yield the rows of per-domain tables that did not change although their domain has rows enough."""
    for name, table in domain_tables(training.model).items():
        if len(table.weight) != NUM_SHOPS + 1:
            continue
        changed = (training.start[f"{name}.weight"] != table.weight).flatten(1).any(1).tolist()
        for shop, num_rows in enumerate(SHOP_ROWS, start=1):
            if num_rows >= MIN_ROWS and not changed[shop]:
                yield f"row {shop} of {name}"


@rule("epoch order", "The order of an epoch visits valid rows and depends on the given generator only.")
def epoch_order(case: Case) -> str | None:
    """Draw the order of an epoch twice."""
    order, again = (Training(case).order(case.train) for _ in range(2))
    rows, starts, num_rows = order.rows, order.starts, len(case.train)
    is_valid = rows.ndim == 1 and np.issubdtype(rows.dtype, np.integer) and len(rows) > 0
    if not is_valid or rows.min() < 0 or rows.max() >= num_rows:
        return f"expected learner.order to visit rows 0 to {num_rows - 1}, but it visits others, or none"
    if starts[0] != 0 or starts[-1] != len(rows) or (np.diff(starts) <= 0).any():
        return (
            f"expected the starts of batches to rise from 0 to {len(rows)}, the number of visits; they do not"
        )
    if not np.array_equal(rows, again.rows) or not np.array_equal(starts, again.starts):
        return "expected the order of an epoch to depend on the given generator only, but two orders differ"
    return None


@rule("penalties", "Penalties are finite scalars, and figures for the log are detached scalars.")
def penalties(case: Case) -> str | None:
    """Check the penalties and logs of a batch in training mode and in eval mode."""
    model = deepcopy(case.trained.model)
    for is_training in (True, False):
        context = model.train(is_training).context(case.train.slice(0, BATCH_ROWS))
        model.net(context)
        sentence = _wrong_scalar(context)
        if sentence is not None:
            return sentence
    return None


def _wrong_scalar(context: Context) -> str | None:
    for penalty in context.penalties:
        if penalty.dim() != 0 or not bool(torch.isfinite(penalty)):
            return f"expected a penalty to be a finite scalar, but got shape {tuple(penalty.shape)}, {penalty.tolist()}"
    for name, figure in context.logs.items():
        if figure.dim() != 0 or figure.requires_grad:
            return f"expected the figure {name!r} for the log to be a detached scalar; it is not"
    return None
