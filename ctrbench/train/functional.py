"""A model with other dense weights than its own: losses, gradients and scores, and an exchange of the weights.

`Weights` replace parameters of the network by name for one evaluation, so that gradients reach them. `holding` lets the
parameters themselves be views of a vector, so that optimizer steps change the vector.

Shapes in names: B rows, P dense weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from ctrbench.data.batches import SplitData
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.tables import RowTable
from ctrbench.train.learner import EVAL_ROWS, bce, total_loss

Weights = dict[str, torch.Tensor]
"""Weights of `CTRModel.net` by name; those of other names are the network's own."""


def loss_with(model: CTRModel, weights: Weights, context: Context, label_B: torch.Tensor) -> torch.Tensor:
    """Return the loss of a batch with its penalties, as a function of the weights."""
    logit_B = torch.func.functional_call(model.net, weights, (context,))
    return total_loss(bce(logit_B, label_B), context)


def gradient_with(
    model: CTRModel,
    weights: Weights,
    context: Context,
    label_B: torch.Tensor,
    *,
    create_graph: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Return the gradient of the loss by the weights; with `create_graph` it can be differentiated again."""
    with torch.enable_grad():
        loss = loss_with(model, weights, context.part(slice(None)), label_B)
        return torch.autograd.grad(
            loss, list(weights.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
        )


def descend(weights: Weights, grads: Sequence[torch.Tensor], rate: float | torch.Tensor) -> Weights:
    """Return the weights after a gradient step."""
    return {name: value - rate * grad for (name, value), grad in zip(weights.items(), grads, strict=True)}


def adapt(
    model: CTRModel,
    weights: Weights,
    context: Context,
    label_B: torch.Tensor,
    *,
    steps: int,
    rate: float | torch.Tensor,
) -> Weights:
    """Make first-order gradient steps on a batch; return the weights minus `rate` times constants.

    So the derivative by a learned rate α is minus the sum of the gradients, and a gradient g at the result reaches α as
    g·(-Σ ∇L).
    """
    weights = {name: value.detach() for name, value in weights.items()}
    for _ in range(steps):
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        weights = descend(weights, gradient_with(model, leaves, context, label_B), rate)
    return weights


@torch.no_grad()
def score_with(model: CTRModel, weights: Weights, data: SplitData, rows: np.ndarray) -> np.ndarray:
    """Return the logits of some rows in the order of the row numbers; the model is set to eval mode before."""
    parts = []
    for part in torch.split(torch.from_numpy(rows), EVAL_ROWS):
        context = model.context(data.take(part))
        parts.append(torch.func.functional_call(model.net, weights, (context,)))
    scores: np.ndarray = torch.cat(parts).float().cpu().numpy()
    return scores


def dense_parameters(model: CTRModel) -> list[nn.Parameter]:
    """Return the parameters that are not tables, in the order of the model."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, RowTable)}
    return [parameter for parameter in model.parameters() if id(parameter) not in tables]


def split_vector(vector_P: torch.Tensor, parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    """Return views of a vector in the shapes of the parameters."""
    parts = torch.split(vector_P, [parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]


@contextmanager
def holding(parameters: Sequence[nn.Parameter], vector_P: torch.Tensor) -> Iterator[None]:
    """Let the parameters be views of the vector, so that an optimizer step changes the vector."""
    saved = [parameter.data for parameter in parameters]
    for parameter, view in zip(parameters, split_vector(vector_P, parameters), strict=True):
        parameter.data = view
    try:
        yield
    finally:
        for parameter, data in zip(parameters, saved, strict=True):
            parameter.data = data
