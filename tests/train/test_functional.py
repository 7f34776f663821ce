from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.train.functional import (
    Weights,
    adapt,
    dense_parameters,
    gradient_with,
    holding,
    loss_with,
    score_with,
    split_vector,
)
from ctrbench.train.learner import bce, evaluating, score_rows

Model = Callable[..., CTRModel]


def doubled(model: CTRModel) -> Weights:
    return {name: 2.0 * value.detach() for name, value in model.net.named_parameters()}


def double(model: CTRModel) -> None:
    for parameter in model.net.parameters():
        parameter.data.mul_(2.0)


def test_a_loss_with_other_weights_is_that_of_a_model_that_has_them(
    build_model: Model, data: SplitData
) -> None:
    model, other, batch = build_model(), build_model(), data.slice(0, 20)
    double(other)
    loss = loss_with(model, doubled(model), model.context(batch), batch.label_B)
    torch.testing.assert_close(loss, bce(other(batch), batch.label_B))


def test_scores_with_other_weights_are_in_the_order_of_the_rows(build_model: Model, data: SplitData) -> None:
    model, other, rows = build_model(), build_model(), np.array([7, 3, 150])
    double(other)
    with evaluating(model):
        scores = score_with(model, doubled(model), data, rows)
        own = score_with(model, {}, data, rows)
    np.testing.assert_allclose(scores, score_rows(other, data)[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(own, score_rows(model, data)[rows], rtol=1e-5, atol=1e-6)
    assert scores.dtype == np.float32


def test_a_step_of_adaptation_is_one_of_gradient_descent(build_model: Model, data: SplitData) -> None:
    model, batch = build_model(), data.slice(0, 20)
    weights, context = dict(model.net.named_parameters()), model.context(batch).detached()
    grads = gradient_with(model, weights, context, batch.label_B)
    adapted = adapt(model, weights, context, batch.label_B, steps=1, rate=0.5)
    for (name, value), grad in zip(weights.items(), grads, strict=True):
        torch.testing.assert_close(adapted[name], value.detach() - 0.5 * grad)
        assert not adapted[name].requires_grad


def test_the_gradient_of_a_rate_is_minus_the_sum_of_gradients(build_model: Model, data: SplitData) -> None:
    model, batch, rate = build_model(), data.slice(0, 20), torch.tensor(0.5, requires_grad=True)
    weights, context = dict(model.net.named_parameters()), model.context(batch).detached()
    first = gradient_with(model, weights, context, batch.label_B)
    moved = adapt(model, weights, context, batch.label_B, steps=1, rate=0.5)
    second = gradient_with(model, {n: v.requires_grad_() for n, v in moved.items()}, context, batch.label_B)
    adapted = adapt(model, weights, context, batch.label_B, steps=2, rate=rate)
    (slope,) = torch.autograd.grad(torch.stack([value.sum() for value in adapted.values()]).sum(), rate)
    expected = -torch.stack([grad.sum() for grad in (*first, *second)]).sum()
    torch.testing.assert_close(slope, expected)


def test_tables_are_no_dense_parameters(build_model: Model) -> None:
    model = build_model("plain[aux=all,norm=pn]")
    assert sum(weight.numel() for weight in dense_parameters(model)) == model.num_parameters()["dense"]


def test_held_parameters_are_views_of_the_vector(build_model: Model) -> None:
    model = build_model()
    parameters = dense_parameters(model)
    before = [parameter.detach().clone() for parameter in parameters]
    vector_P = torch.zeros(sum(parameter.numel() for parameter in parameters))
    with holding(parameters, vector_P), torch.no_grad():
        for parameter in parameters:
            parameter += 1.0
    assert vector_P.eq(1.0).all()
    for parameter, value, view in zip(parameters, before, split_vector(vector_P, parameters), strict=True):
        assert torch.equal(parameter, value)
        assert view.shape == parameter.shape
