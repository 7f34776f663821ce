from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctrbench.data.batches import SplitData
from ctrbench.names import Column
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Stage, StageModule
from ctrbench.plugins.registry import select
from ctrbench.train import learner as module
from ctrbench.train.learner import Learner, bce, dev_auc, score_rows, total_loss

Builder = Callable[..., CTRModel]


def test_the_example_of_the_docstring_runs() -> None:
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_bce_by_hand() -> None:
    loss = bce(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    assert float(loss) == pytest.approx((np.log(2.0) + np.log1p(np.exp(2.0))) / 2.0)


def test_penalties_are_added(build_model: Builder, data: SplitData) -> None:
    context = build_model().context(data.slice(0, 3))
    context.penalties.extend([torch.tensor(0.5), torch.tensor(2.0)])
    assert float(total_loss(torch.tensor(1.0), context)) == 3.5


def test_one_step_is_one_adam_step_of_torch(build_model: Builder, data: SplitData) -> None:
    model, reference, batch = build_model(), build_model(), data.slice(0, 32)
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    output = Learner().step(model, optimizer, batch)
    adam = torch.optim.Adam(reference.parameters(), lr=0.01)
    loss = functional.binary_cross_entropy_with_logits(reference(batch), batch.label_B)
    torch.autograd.backward(loss)
    adam.step()
    assert float(output.loss) == pytest.approx(loss.item(), rel=1e-6)
    assert (output.rows, optimizer.steps, output.loss.requires_grad) == (32, 1, False)
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def gradient_of(model: CTRModel, data: SplitData, weight: float) -> torch.Tensor:
    """Return the gradient of the head in one step on 16 rows."""
    batch = replace(data.slice(0, 16), weight=weight)
    Learner().step(model, Optimizer(model, AdamConfig()), batch)
    gradient: torch.Tensor = model.net.head[0].weight.grad
    return gradient


def test_the_gradient_is_proportional_to_the_weight_of_the_batch(
    build_model: Builder, data: SplitData
) -> None:
    full, half = (gradient_of(build_model(), data, weight) for weight in (1.0, 0.5))
    torch.testing.assert_close(half, 0.5 * full)


@dataclass(frozen=True, kw_only=True)
class Penalized(Stage):
    """Adds a parameter to the loss."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        return PenalizedModule(num_inputs)


class PenalizedModule(StageModule):
    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        self.size = torch.nn.Parameter(torch.ones(()))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        context.penalties.append(3.0 * self.size)
        context.logs["size"] = self.size.detach().clone()
        return x_BN


def test_penalties_give_gradients_and_are_not_part_of_the_loss(schema: Schema, data: SplitData) -> None:
    plan: Plan = select("backbones", "dnn[hidden=8-4]").value.plan()
    model = CTRModel(plan.with_input(Penalized(name="penalized")), schema, seed=1)
    plain, batch = CTRModel(plan, schema, seed=1), data.slice(0, 16)
    output = Learner().step(model, Optimizer(model, AdamConfig()), batch)
    assert float(output.loss) == pytest.approx(bce(plain(batch), batch.label_B).item())
    assert model.net.at_input[0].size.grad.item() == 3.0
    assert float(output.logs["size"]) == 1.0


def test_orders_are_mixed_or_of_one_domain(data: SplitData) -> None:
    orders = {}
    for batching in ("mixed", "domain"):
        learner = Learner(batching=batching)
        orders[batching] = learner.order(data, batch_size=64, generator=np.random.default_rng(0))
    kinds = {
        name: [len(set(batch.indicator_B.tolist())) for batch in data.batches(order)]
        for name, order in orders.items()
    }
    assert min(kinds["mixed"]) > 1
    # 150, 80 and 40 rows make four blocks of one domain; remainders of all but the city of 40 make two mixed blocks.
    assert sorted(kinds["domain"])[:4] == [1, 1, 1, 1]
    assert len(kinds["domain"]) == 6


def test_scores_are_logits_in_eval_mode_at_any_batch_size(build_model: Builder, data: SplitData) -> None:
    model = build_model()
    model.train()
    scores = score_rows(model, data, batch_size=77)
    assert model.training
    assert (scores.dtype, scores.shape) == (np.float32, (300,))
    with torch.no_grad():
        expected = model.eval()(data.slice(0, 300)).numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_the_default_learner_scores_selects_nothing_and_has_no_state(
    build_model: Builder, data: SplitData
) -> None:
    learner, model = Learner(), build_model()
    assert set(learner.score(model, data)) == {Column.SCORE}
    assert learner.select(model, data, data) == {}
    assert learner.state_dict() == {}


def test_overriding_select_without_declaring_it_is_an_error() -> None:
    with pytest.raises(TypeError, match="Undeclared overrides select, so it must declare selects = True"):
        type("Undeclared", (Learner,), {"select": lambda *_: {}})


def test_declaring_a_selection_without_overriding_select_is_an_error() -> None:
    with pytest.raises(TypeError, match="Idle does not override select, so it must declare selects = False"):
        type("Idle", (Learner,), {"selects": True, "selekt": lambda *_: {}})


def test_overriding_step_without_declaring_refuses_workers_is_an_error() -> None:
    with pytest.raises(TypeError, match="Misspelled overrides step, so it must declare refuses_workers"):
        type("Misspelled", (Learner,), {"refuse_workers": "a reason", "step": lambda *_: None})


def test_declarations_are_inherited() -> None:
    parent = type("Parent", (Learner,), {"refuses_workers": None, "step": lambda *_: None})
    assert type("Child", (parent,), {"step": lambda *_: None}).refuses_workers is None


def test_dev_auc_counts_pairs_and_is_undefined_for_one_class(data: SplitData) -> None:
    four = replace(data, label_B=torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert dev_auc(four, np.array([0.1, 0.2, 0.3, 0.4])) == 0.75
    assert dev_auc(replace(four, label_B=torch.zeros(4)), np.arange(4.0)) is None
