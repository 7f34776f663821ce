"""PCGrad against projections of vectors in float64, and the parts that it does not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.extend import Build, Context, Stage, StageModule
from ctrbench.methods.pcgrad import PCGradLearner, conflict_weights
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.stages import Dense
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner

Model = Callable[..., CTRModel]


def rows(x: list[list[float]], label: list[int], domain: list[int]) -> SplitData:
    """Rows of numeric fields, without embeddings."""
    domains = torch.tensor(domain, dtype=torch.int32)
    return SplitData(
        ids_BF=torch.zeros(len(x), 0, dtype=torch.int32),
        bags=(),
        numeric_BK=torch.tensor(x),
        domain_B=domains,
        indicator_B=domains,
        label_B=torch.tensor(label, dtype=torch.float32),
        row=np.arange(len(x)),
        user=None,
        probability=None,
    )


def logistic(num_inputs: int, stages: tuple[Stage, ...] = ()) -> CTRModel:
    """The model σ(x w + b) at w = 0, b = 0."""
    names = [f"x{place}" for place in range(num_inputs)]
    schema = Schema(
        fields=tuple(FieldShape(name=name, kind="numeric", role="other", size=0) for name in names),
        embedding_size=1,
        domain_features=("x0",),
        num_domains=9,
        indicator_rows=(0, *[4] * 9),
        base_rate=0.5,
    )
    model = CTRModel(Plan(tower=stages, head=(Dense(name="head", width=1),)), schema, seed=1)
    torch.nn.init.zeros_(model.net.head[0].get_parameter("weight"))
    return model


class Recording(Optimizer):
    """An optimizer that keeps the gradients and makes no step."""

    def step(self) -> None:
        self.steps += 1
        self.grads = [one.grad.clone() for one in self.dense_view().parameters if one.grad is not None]
        self.rows = [read.leaf.grad.clone() for read in self.reads if read.leaf.grad is not None]


def step(learner: Learner, model: CTRModel, batch: Batch) -> tuple[Recording, dict[str, float]]:
    optimizer = Recording(model, AdamConfig())
    logs = learner.step(model, optimizer, batch).logs
    return optimizer, {name: float(value) for name, value in logs.items()}


def by_hand(grads: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Σ_i h_i, vector by vector."""
    total = np.zeros(grads.shape[1])
    for own, order in zip(grads, others, strict=True):
        h = own.copy()
        for other in order:
            product = h @ grads[other]
            if product < 0:
                h -= product / (grads[other] @ grads[other]) * grads[other]
        total += h
    return total


def operated(grads: np.ndarray, others: list[list[int]] | np.ndarray) -> np.ndarray:
    """Σ_i h_i, from products of the vectors."""
    lost_G = conflict_weights(torch.from_numpy(grads @ grads.T), torch.tensor(np.array(others)))
    return grads.sum(0) - lost_G.numpy() @ grads


def test_of_two_conflicting_gradients_each_loses_its_part_against_the_other() -> None:
    # (1, 0) becomes (1/2, 1/2), and (-1, 1) becomes (0, 1).
    found = operated(np.array([[1.0, 0.0], [-1.0, 1.0]]), [[1], [0]])
    np.testing.assert_allclose(found, [0.5, 1.5])


def test_the_order_of_the_others_matters_where_three_conflict() -> None:
    grads = np.array([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -2.0, 1.0]])
    one, other = [[1, 2], [0, 2], [0, 1]], [[2, 1], [0, 2], [0, 1]]
    np.testing.assert_allclose(operated(grads, one), by_hand(grads, np.array(one)))
    np.testing.assert_allclose(operated(grads, other), by_hand(grads, np.array(other)))
    assert np.abs(operated(grads, one) - operated(grads, other)).max() > 0.05


@pytest.mark.parametrize("seed", range(5))
def test_products_of_gradients_determine_the_projected_sum(seed: int) -> None:
    generator = np.random.default_rng(seed)
    grads = generator.standard_normal((6, 9)) * generator.uniform(0.01, 3.0, (6, 1))
    others = np.array([generator.permutation([j for j in range(6) if j != i]) for i in range(6)])
    assert ((grads @ grads.T) < 0).sum() > 4
    np.testing.assert_allclose(operated(grads, others), by_hand(grads, others), atol=1e-12)


def test_a_gradient_of_zero_is_left_out() -> None:
    grads = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    np.testing.assert_allclose(operated(grads, [[1, 2], [0, 2], [1, 0]]), [0.5, 1.5])


CONFLICT = rows(
    [[1.0, 0.5], [2.0, -1.0], [1.5, 1.0], [-1.0, 2.0], [0.5, 3.0], [-2.0, 0.3], [1.0, 1.0]],
    [1, 0, 1, 1, 0, 1, 0],
    [1, 1, 1, 2, 2, 3, 3],
)


def gradients(data: SplitData, groups: list[list[int]]) -> np.ndarray:
    """∇ of each group's part of the mean loss by (b, w) at zero, where σ = 1/2."""
    x = np.column_stack([data.numeric_BK.numpy(), np.ones(len(data))])
    each = (0.5 - data.label_B.numpy())[:, None] * x / len(data)
    return np.array([each[np.isin(data.indicator_B.numpy(), group)].sum(0) for group in groups])


def flat(optimizer: Recording) -> np.ndarray:
    """As `gradients` has it: weights, then the bias."""
    return np.concatenate([grad.numpy().ravel() for grad in optimizer.grads])


def test_a_step_uses_the_projected_sum_of_the_domains() -> None:
    learner = PCGradLearner(8)
    optimizer, logs = step(learner, logistic(2), CONFLICT.slice(0, 7))
    # Larger groups come first; 2 and 3 have equal sizes.
    grads = gradients(CONFLICT, [[1], [2], [3]])
    others = learner._order_of_others(3, 0, torch.device("cpu")).numpy()
    expected = by_hand(grads, others)
    assert np.abs(expected - grads.sum(0)).max() > 0.01
    np.testing.assert_allclose(flat(optimizer), expected, rtol=1e-5)
    products = grads @ grads.T
    assert logs["conflicts"] == pytest.approx((products < 0).sum() / 6)


def test_domains_beyond_the_groups_are_one_task() -> None:
    optimizer, _ = step(PCGradLearner(2), logistic(2), CONFLICT.slice(0, 7))
    expected = by_hand(gradients(CONFLICT, [[1], [2, 3]]), np.array([[1], [0]]))
    apart = by_hand(gradients(CONFLICT, [[1], [2], [3]]), np.array([[1, 2], [0, 2], [0, 1]]))
    assert np.abs(expected - apart).max() > 1e-3
    np.testing.assert_allclose(flat(optimizer), expected, rtol=1e-5)


def test_the_weight_of_a_batch_is_the_weight_of_its_step() -> None:
    whole, part = (
        step(PCGradLearner(8), logistic(2), replace(CONFLICT.slice(0, 7), weight=weight))[0]
        for weight in (1.0, 0.25)
    )
    np.testing.assert_allclose(flat(part), 0.25 * flat(whole), rtol=1e-5)


@dataclass(frozen=True, kw_only=True)
class Pull(Stage):
    """Adds Σ p to the loss, p a parameter that the output does not need, and Σ of its own shift, which it does."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        return PullModule(num_inputs)


class PullModule(StageModule):
    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        self.unused = torch.nn.Parameter(torch.zeros(3))
        self.shift = torch.nn.Parameter(torch.zeros(num_inputs))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        context.penalties.append(5.0 * self.unused.sum() + 7.0 * self.shift.sum())
        return x_BN + self.shift


def test_penalties_are_added_after_the_projection() -> None:
    model = logistic(2, (Pull(name="pull"),))
    optimizer, _ = step(PCGradLearner(8), model, CONFLICT.slice(0, 7))
    without, _ = step(PCGradLearner(8), logistic(2), CONFLICT.slice(0, 7))
    by_shape = {tuple(grad.shape): grad.numpy() for grad in optimizer.grads}
    np.testing.assert_array_equal(by_shape[(3,)], 5.0)
    # At w = 0 the output does not depend on the shift.
    np.testing.assert_array_equal(by_shape[(2,)], 7.0)
    np.testing.assert_allclose(np.append(by_shape[(2, 1)], by_shape[(1,)]), flat(without), rtol=1e-5)


def trained(
    learner: Learner, model: CTRModel, data: SplitData, steps: int = 6
) -> tuple[CTRModel, list[dict[str, float]]]:
    optimizer, logs = Optimizer(model, AdamConfig(lr=0.01)), []
    order = learner.order(data, batch_size=32, generator=np.random.default_rng(0))
    for batch, _ in zip(data.batches(order), range(steps), strict=False):
        output = learner.step(model, optimizer, batch)
        logs.append({name: float(value) for name, value in output.logs.items()})
    optimizer.flush()
    return model, logs


def assert_same(first: CTRModel, second: CTRModel) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", "dcnv2[hidden=8-4]"])
def test_without_conflicts_training_is_bit_equal_to_ordinary_training(
    build_model: Model, data: SplitData, backbone: str
) -> None:
    # With equal labels and rows that differ by their domain only, all gradients have one direction.
    alike = data.take(torch.zeros(len(data), dtype=torch.int64))
    values = {**vars(data), "ids_BF": alike.ids_BF, "bags": alike.bags, "numeric_BK": alike.numeric_BK}
    same = SplitData(**{**values, "label_B": torch.ones(len(data))})
    model, logs = trained(PCGradLearner(8), build_model("pcgrad", backbone), same)
    assert [log["conflicts"] for log in logs] == [0.0] * 6
    assert_same(model, trained(Learner(), build_model("plain", backbone), same)[0])


def test_batches_of_one_domain_are_ordinary_steps(build_model: Model, data: SplitData) -> None:
    one = replace(data, indicator_B=torch.ones_like(data.indicator_B))
    model, logs = trained(PCGradLearner(8), build_model("pcgrad"), one)
    assert logs == [{}] * 6
    assert_same(model, trained(Learner(), build_model(), one)[0])


@pytest.mark.parametrize("method", ["pcgrad", "pcgrad[norm=pn,aux=all]"])
def test_tables_take_the_ordinary_gradient_and_dense_weights_another(
    build_model: Model, data: SplitData, method: str
) -> None:
    batch = data.slice(0, 100)
    ordinary, _ = step(Learner(), build_model(method), batch)
    operated_on, logs = step(PCGradLearner(8), build_model(method), batch)
    assert logs["conflicts"] > 0.1
    for first, second in zip(ordinary.rows, operated_on.rows, strict=True):
        assert torch.equal(first, second)
    apart = [float((a - b).abs().max()) for a, b in zip(ordinary.grads, operated_on.grads, strict=True)]
    assert max(apart) > 1e-3


def test_gradients_of_groups_sum_to_the_ordinary_gradient(build_model: Model, data: SplitData) -> None:
    """Projecting gradients that are computed one by one, each from its own rows, gives the step's gradient."""
    batch, learner = data.slice(0, 60), PCGradLearner(3)
    optimizer, _ = step(learner, build_model("pcgrad"), batch)
    model = build_model()
    parameters = list(model.net.parameters())
    sizes = torch.bincount(batch.indicator_B).tolist()
    first, second = sorted(
        range(len(sizes)), key=lambda domain: (-int(np.log2(max(sizes[domain], 1))), domain)
    )[:2]
    assert sizes[first] > sizes[second] > 8
    masks = [batch.indicator_B == first, batch.indicator_B == second]
    masks.append(~masks[0] & ~masks[1])
    found = []
    for mask in masks:
        logit_B = model(batch)
        loss = torch.nn.functional.softplus(logit_B) - batch.label_B * logit_B
        grads = torch.autograd.grad((loss * mask).sum() / 60, parameters)
        found.append(np.concatenate([grad.double().numpy().ravel() for grad in grads]))
    expected = by_hand(np.array(found), learner._order_of_others(3, 0, torch.device("cpu")).numpy())
    assert np.abs(expected - np.sum(found, axis=0)).max() > 1e-4
    np.testing.assert_allclose(flat(optimizer), expected, rtol=1e-3, atol=1e-6)


def test_orders_are_of_the_others_and_change_with_step_and_epoch(data: SplitData) -> None:
    learner, cpu = PCGradLearner(8), torch.device("cpu")
    drawn = []
    for epoch in (0, 1):
        learner.order(data, batch_size=32, generator=np.random.default_rng(epoch))
        for number in (0, 1):
            others = learner._order_of_others(6, number, cpu).tolist()
            assert [sorted(one) for one in others] == [[j for j in range(6) if j != i] for i in range(6)]
            drawn.append(str(others))
    assert len(set(drawn)) == 4


def test_orders_are_drawn_evenly() -> None:
    learner = PCGradLearner(8)
    first = [learner._order_of_others(4, number, torch.device("cpu"))[2, 0].item() for number in range(900)]
    np.testing.assert_allclose(np.bincount(first, minlength=4) / 900, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.05)


def test_the_order_of_rows_is_that_of_ordinary_training(data: SplitData) -> None:
    orders = [
        one.order(data, batch_size=32, generator=np.random.default_rng(0))
        for one in (PCGradLearner(8), Learner())
    ]
    np.testing.assert_array_equal(orders[0].rows, orders[1].rows)


def test_a_restored_learner_draws_the_same_orders(data: SplitData) -> None:
    learner, other = PCGradLearner(8), PCGradLearner(8)
    learner.order(data, batch_size=32, generator=np.random.default_rng(5))
    assert other.seed != learner.seed
    other.load_state_dict(learner.state_dict())
    cpu = torch.device("cpu")
    assert torch.equal(other._order_of_others(5, 3, cpu), learner._order_of_others(5, 3, cpu))


def test_a_single_group_is_refused() -> None:
    with pytest.raises(SettingError, match="groups"):
        _ = select("methods", "pcgrad[groups=1]").value
