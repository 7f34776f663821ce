"""MAML against gradients computed by hand and by autograd, and the rows that adaptation may read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.maml import UNADAPTED, Maml, MamlLearner, RateNetwork
from ctrbench.names import Column
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.stages import Dense
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner
from ctrbench.train.tasks import task_runs

TWO_PARAMETERS = Plan(tower=(), head=(Dense(name="head", width=1),))
Model = Callable[..., CTRModel]


def numbers(x: list[float], label: list[int], task: list[int]) -> SplitData:
    """Rows of one numeric field, without embeddings."""
    tasks = torch.tensor(task, dtype=torch.int32)
    return SplitData(
        ids_BF=torch.zeros(len(x), 0, dtype=torch.int32),
        bags=(),
        numeric_BK=torch.tensor(x)[:, None],
        domain_B=tasks,
        indicator_B=tasks,
        label_B=torch.tensor(label, dtype=torch.float32),
        row=np.arange(len(x)),
        user=None,
        probability=None,
    )


def logistic(*rows_of_tasks: int) -> CTRModel:
    """The model σ(w x + b) at w = b = 0; e_d is x itself."""
    schema = Schema(
        fields=(FieldShape(name="x", kind="numeric", role="other", size=0),),
        embedding_size=1,
        domain_features=("x",),
        num_domains=len(rows_of_tasks),
        indicator_rows=(0, *rows_of_tasks),
        base_rate=0.5,
    )
    model = CTRModel(TWO_PARAMETERS, schema, seed=1)
    torch.nn.init.zeros_(model.net.head[0].get_parameter("weight"))
    return model


class Recording(Optimizer):
    """An optimizer that keeps the gradients and makes no step."""

    def step(self) -> None:
        self.rows = [
            (read.rows_U, read.leaf.grad.clone()) for read in self.reads if read.leaf.grad is not None
        ]


def meta_step(
    model: CTRModel, data: SplitData, rows: list[int] | None = None, **settings: object
) -> Recording:
    return step_of(Maml.model_validate(settings).learner(), model, data, rows)


def step_of(made: Learner, model: CTRModel, data: SplitData, rows: list[int] | None = None) -> Recording:
    optimizer = Recording(model, AdamConfig())
    made.step(model, optimizer, data.take(torch.arange(len(data)) if rows is None else torch.tensor(rows)))
    return optimizer


def gradients(model: CTRModel) -> list[float]:
    head = model.net.head[0]
    return [float(head.get_parameter(name).grad) for name in ("weight", "bias")]  # type: ignore[arg-type]


ONE_TASK = {"x": [1.0, 2.0, 4.0], "label": [1, 0, 1], "task": [1, 1, 1]}
"""Support (1, yes), (2, no): the gradient at zero is (0.25, 0), so φ = (-0.25 α, 0). Query (4, yes)."""


def test_first_order_takes_the_query_gradient_at_the_adapted_weights() -> None:
    model = logistic(3)
    meta_step(model, numbers(**ONE_TASK), support=2, query=1, inner_lr=1.0)
    # At φ = (-0.25, 0) the query's logit is -1 and σ(-1) - 1 = -0.731059.
    assert gradients(model) == pytest.approx([4 * -0.731059, -0.731059], rel=1e-5)


def test_second_order_multiplies_by_one_minus_the_hessian() -> None:
    model = logistic(3)
    meta_step(model, numbers(**ONE_TASK), support=2, query=1, inner_lr=1.0, variant="second_order")
    # The support's Hessian at zero is ¼ [[5/2, 3/2], [3/2, 1]].
    hessian = np.array([[0.625, 0.375], [0.375, 0.25]])
    expected = (np.eye(2) - hessian) @ [4 * -0.731059, -0.731059]
    assert gradients(model) == pytest.approx(expected.tolist(), rel=1e-5)


def test_inner_steps_continue_from_the_last_weights() -> None:
    model = logistic(3)
    meta_step(model, numbers(**ONE_TASK), support=2, query=1, inner_lr=1.0, inner_steps=2)
    w, b = -0.25, 0.0
    first, second = (1 / (1 + np.exp(-(w * x + b))) - y for x, y in ((1.0, 1.0), (2.0, 0.0)))
    w, b = w - (first + 2 * second) / 2, b - (first + second) / 2
    error = 1 / (1 + np.exp(-(4 * w + b))) - 1
    assert gradients(model) == pytest.approx([4 * error, error], rel=1e-5)


BOTH_TASKS = {"x": [1.0, 2.0, 4.0] * 2, "label": [1, 0, 1, 1, 0, 0], "task": [1, 1, 1, 2, 2, 2]}
"""`ONE_TASK`, and a second task whose query has label 0."""
THREE_SIZES = (400, 100, 900)
"""With τ = 0.5, two tasks per step are drawn with probabilities 2/3, 1/3 and 1; weights are 3/7, 3/14 and 9/14."""


def test_tasks_weigh_by_their_rows_over_steps() -> None:
    model = logistic(*THREE_SIZES)
    meta_step(model, numbers(**BOTH_TASKS), support=2, query=1, inner_lr=1.0, tau=0.5, tasks=2)
    # Both adapt to (-0.25, 0); the query of the second has label 0: σ(-1) = 0.268941.
    expected = 3 / 7 * -0.731059 + 3 / 14 * 0.268941
    assert gradients(model) == pytest.approx([4 * expected, expected], rel=1e-5)


def test_reptile_moves_part_of_the_way_to_the_adapted_weights() -> None:
    model = logistic(2)
    data = numbers([1.0, 2.0], [1, 0], [1, 1])
    meta_step(model, data, variant="reptile", support=2, inner_lr=1.0, outer_rate=0.1)
    head = model.net.head[0]
    assert head.get_parameter("weight").item() == pytest.approx(-0.025)
    assert head.get_parameter("bias").item() == 0.0
    assert head.get_parameter("weight").grad is None


EQUAL = {"tasks": 1, "tau": 1.0}
"""Every task has weight 1: it is drawn by its rows."""


def explicit(model: CTRModel, data: SplitData, cuts: list[tuple[int, int, int]], lr: float) -> dict[str, Any]:
    """Gradients of the sum of the query losses after one inner step, with the network written out."""
    names = ["tower.0.weight", "tower.0.bias", "head.0.weight", "head.0.bias"]
    theta = {name: model.net.get_parameter(name).detach().clone().requires_grad_() for name in names}
    z_BN = model.context(data.slice(0, len(data))).z_BN.detach().requires_grad_()

    def loss(phi: dict[str, torch.Tensor], rows: slice) -> torch.Tensor:
        hidden = torch.tanh(z_BN[rows] @ phi["tower.0.weight"] + phi["tower.0.bias"])
        logit = (hidden @ phi["head.0.weight"] + phi["head.0.bias"])[:, 0]
        return torch.nn.functional.softplus(logit).mean() - (data.label_B[rows] * logit).mean()

    total = torch.zeros(())
    for start, cut, stop in cuts:
        inner = torch.autograd.grad(loss(theta, slice(start, cut)), list(theta.values()), create_graph=True)
        phi = {name: theta[name] - lr * grad for name, grad in zip(names, inner, strict=True)}
        total = total + loss(phi, slice(cut, stop))
    total.backward()
    return {name: value.grad for name, value in theta.items()} | {"z": z_BN.grad}


def rows_of(data: SplitData, rows: torch.Tensor) -> SplitData:
    tensors = {
        name: value for name, value in vars(data.take(rows)).items() if name not in ("weight", "share")
    }
    return SplitData(**tensors, row=rows.numpy(), user=None, probability=None)


def test_second_order_agrees_with_explicit_autograd(build_model: Model, data: SplitData) -> None:
    rows = [torch.nonzero(data.indicator_B == city)[:12, 0] for city in (1, 2)]
    part = rows_of(data, torch.cat(rows))
    model = build_model(backbone="dnn[hidden=5]")
    optimizer = meta_step(model, part, support=8, query=4, inner_lr=0.7, **EQUAL, variant="second_order")
    expected = explicit(model, part, [(0, 8, 12), (12, 20, 24)], 0.7)
    embedded = expected.pop("z")
    for name, grad in expected.items():
        torch.testing.assert_close(model.net.get_parameter(name).grad, grad)
    for user in torch.unique(part.ids_BF[:, 2]):
        found = embedding_gradient(optimizer, model, user)
        torch.testing.assert_close(found, embedded[part.ids_BF[:, 2] == user, 8:12].sum(0))


def embedding_gradient(
    optimizer: Recording, model: CTRModel, value: torch.Tensor | int, field: int = 2
) -> torch.Tensor:
    """The gradient of a user's (or age's) embedding, among the rows of the one table that the step has read."""
    ((rows_U, grads),) = optimizer.rows
    return grads[torch.nonzero(rows_U == value + model.embedding.offsets[field]).item()]


def embedded() -> CTRModel:
    """The model σ(w e + b) at w = 1, b = 0, with one id per row and embeddings e of 0.5, -1 for the ids 1, 2."""
    schema = Schema(
        fields=(FieldShape(name="id", kind="categorical", role="other", size=3),),
        embedding_size=1,
        domain_features=("id",),
        num_domains=1,
        indicator_rows=(0, 2),
        base_rate=0.5,
    )
    model = CTRModel(TWO_PARAMETERS, schema, seed=1)
    torch.nn.init.ones_(model.net.head[0].get_parameter("weight"))
    with torch.no_grad():
        offset = int(model.embedding.offsets[0])
        model.embedding.get_parameter("table.weight")[offset + 1 : offset + 3, 0] = torch.tensor([0.5, -1.0])
    return model


TWO_IDS = replace(
    numbers([0.0, 0.0], [1, 0], [1, 1]),
    ids_BF=torch.tensor([[1], [2]], dtype=torch.int32),
    numeric_BK=torch.zeros(2, 0),
)
"""Support (id 1, yes), query (id 2, no)."""


@pytest.mark.parametrize(("trains", "support"), [(True, -0.377541), (False, 0.0)])
def test_embeddings_of_the_support_learn_from_its_loss_at_the_start(trains: bool, support: float) -> None:
    model = embedded()
    optimizer = meta_step(model, TWO_IDS, support=1, query=1, inner_lr=1.0, support_trains_embeddings=trains)
    # The support's error at θ is σ(0.5) - 1 = -0.377541, so φ = (1 + 0.377541 / 2, 0.377541), where the query's error
    # is σ(-0.811229) = 0.307629.
    assert embedding_gradient(optimizer, model, 1, field=0).item() == pytest.approx(support, rel=1e-5)
    query = embedding_gradient(optimizer, model, 2, field=0).item()
    assert query == pytest.approx(0.307629 * 1.188770, rel=1e-5)
    assert gradients(model) == pytest.approx([-0.307629, 0.307629], rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"variant": "anil"}, {"paml_lr": True}, {"inner_steps": 2}])
def test_the_gradient_of_the_support_is_added_with_the_weight_of_the_task(
    build_model: Model, data: SplitData, settings: dict[str, object]
) -> None:
    part = rows_of(data, torch.nonzero(data.indicator_B == 2)[:16, 0])
    sizes = {"support": 8, "query": 8, "inner_lr": 0.5, **settings}
    model, other, plain = build_model(), build_model(), build_model()
    added = meta_step(model, part, **sizes)
    without = meta_step(other, part, support_trains_embeddings=False, **sizes)
    # The dense weights learn from the query alone.
    for name, parameter in model.net.named_parameters():
        torch.testing.assert_close(parameter.grad, other.net.get_parameter(name).grad)
    weight = learner(**sizes)._task_weights(model, [2])[0]
    assert weight not in (0.0, 1.0)
    optimizer = Recording(plain, AdamConfig())
    logit_B = plain.net(plain.context(part.take(torch.arange(16)), optimizer).part(slice(0, 8)))
    (weight * torch.nn.functional.binary_cross_entropy_with_logits(logit_B, part.label_B[:8])).backward()
    optimizer.step()
    expected = without.rows[0][1] + optimizer.rows[0][1]
    torch.testing.assert_close(added.rows[0][1], expected)


def test_anil_adapts_only_the_head(build_model: Model, data: SplitData) -> None:
    rows = torch.nonzero(data.indicator_B == 1)[:8, 0].tolist()
    model, other = build_model(), build_model()
    meta_step(model, data, rows, variant="anil", support=4, query=4, inner_lr=0.5, **EQUAL)
    context = other.context(data.take(torch.tensor(rows)))
    label_B = data.label_B[rows]
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    head = list(other.net.head.parameters())
    grads = torch.autograd.grad(loss(other.net(context.part(slice(0, 4))), label_B[:4]), head)
    with torch.no_grad():
        for parameter, grad in zip(head, grads, strict=True):
            parameter -= 0.5 * grad
    loss(other.net(other.context(data.take(torch.tensor(rows))).part(slice(4, 8))), label_B[4:]).backward()
    for name, parameter in model.net.named_parameters():
        torch.testing.assert_close(parameter.grad, other.net.get_parameter(name).grad)


def learner(**settings: object) -> MamlLearner:
    made = Maml.model_validate(settings).learner()
    assert isinstance(made, MamlLearner)
    return made


@pytest.mark.parametrize(("rows", "expected"), [(16, (12, 4)), (8, (6, 2)), (5, (3, 2)), (2, (1, 1))])
def test_the_step_divides_a_task_where_it_was_drawn(rows: int, expected: tuple[int, int]) -> None:
    made = learner(support=12, query=4)
    support, query = made._support_and_query(slice(100, 100 + rows))
    assert (support.start, support.stop - support.start) == (100, expected[0])
    assert (query.start, query.stop - query.start) == (support.stop, expected[1])


def test_the_query_is_later_than_the_support(data: SplitData) -> None:
    made = learner(tasks=2, support=6, query=4)
    order = made.order(data, batch_size=1, generator=np.random.default_rng(0))
    for start, stop in zip(order.starts[:-1], order.starts[1:], strict=True):
        rows = order.rows[start:stop]
        for _, run in task_runs(data.indicator_B[torch.from_numpy(rows)]):
            support, query = made._support_and_query(run)
            assert rows[support].max() < rows[query].min()


@pytest.mark.parametrize(
    ("settings", "counted"),
    [
        ({"query": 5}, 5),
        ({"query": 3}, 3),
        ({"query": 5, "inner_steps": 3}, 5),
        ({"variant": "reptile", "inner_steps": 2}, 5),
    ],
)
def test_an_epoch_has_as_many_query_rows_as_there_are_rows(
    data: SplitData, settings: dict[str, Any], counted: int
) -> None:
    even = replace(data, indicator_B=torch.arange(300) % 5 + 1)
    order = learner(tasks=2, support=5, **settings).order(
        even, batch_size=256, generator=np.random.default_rng(0)
    )
    # 2 tasks per step; reptile has no query, so its support counts.
    assert order.num_batches == 300 / (2 * counted)
    assert len(order.rows) == order.num_batches * 2 * (5 + settings.get("query", 0))


TRAIN = {"x": [9.0, 1.0, 2.0, 3.0], "label": [1, 1, 0, 1], "task": [1, 1, 1, 2]}
"""The last two rows of task 1 are those of `ONE_TASK`'s support; task 2 has one row."""
DEV = {"x": [4.0, 4.0, 4.0], "label": [1, 0, 1], "task": [1, 2, 0]}


def selected(model: CTRModel, dev: SplitData, **settings: object) -> tuple[MamlLearner, dict[str, Any]]:
    made = learner(support=2, query=2, min_support=2, inner_lr=1.0, **settings)
    return made, made.select(model, numbers(**TRAIN), dev)


def test_a_task_is_adapted_on_its_last_training_rows_and_small_ones_are_not() -> None:
    model = logistic(3, 1)
    made, _ = selected(model, numbers(**DEV), eval_steps=(1,))
    scores = made.score(model, numbers(**DEV))
    np.testing.assert_allclose(scores[Column.SCORE], [-1.0, 0.0, 0.0], atol=1e-6)
    assert scores[UNADAPTED].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("labels", "steps"), [([1, 0, 1], 0), ([0, 1, 1], 1), ([1, 1, 1], 0)])
def test_dev_chooses_the_number_of_steps(labels: list[int], steps: int) -> None:
    dev = numbers(**{**DEV, "label": labels})
    made, notes = selected(logistic(3, 1), dev, eval_steps=(0, 1))
    assert notes == {"adaptation_steps": steps}
    assert made.adaptation_steps == steps


def test_steps_are_counted_from_the_meta_learned_start() -> None:
    model, dev = logistic(3, 1), numbers(**DEV)
    made, _ = selected(model, dev, eval_steps=(5,))
    among = made._scores_by_steps(model, dev, (0, 1, 5, 20))
    assert among[5].tolist() == made.score(model, dev)[Column.SCORE].tolist()
    assert len({scores[0] for scores in among.values()}) == 4


def test_adaptation_does_not_change_the_model(build_model: Model, data: SplitData) -> None:
    model = build_model("maml").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = learner(support=16, query=16, min_support=16, inner_lr=0.5)
    made.select(model, data, data)
    made.score(model, data)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scores_do_not_depend_on_the_labels_scored(build_model: Model, data: SplitData) -> None:
    model = build_model("maml")
    made = learner(support=16, query=16, min_support=16, inner_lr=0.5, eval_steps=(5,))
    made.select(model, data, data)
    flipped = replace(data, label_B=1.0 - data.label_B)
    first, second = (made.score(model, split)[Column.SCORE] for split in (data, flipped))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, made.score(model, data)[UNADAPTED])


def test_scores_before_selection_are_unadapted(build_model: Model, data: SplitData) -> None:
    scores = learner().score(build_model("maml"), data)
    np.testing.assert_array_equal(scores[Column.SCORE], scores[UNADAPTED])


@pytest.mark.parametrize("variant", ["fomaml", "second_order", "reptile", "anil"])
def test_every_variant_lowers_the_loss(build_model: Model, data: SplitData, variant: str) -> None:
    x = data.numeric_BK[:, 0]
    plain = replace(data, label_B=(x > 0).float())
    model = build_model("maml")
    made, optimizer = (
        learner(variant=variant, support=16, inner_lr=0.3),
        Optimizer(model, AdamConfig(lr=0.02)),
    )
    losses = []
    for epoch in range(6):
        order = made.order(plain, batch_size=1, generator=np.random.default_rng(epoch))
        losses += [float(made.step(model, optimizer, batch).loss) for batch in plain.batches(order)]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.01


@pytest.mark.parametrize(
    "settings",
    [
        "outer_rate=0.2",
        "variant=reptile,query=64",
        "variant=reptile,paml_lr=true",
        "variant=reptile,support_trains_embeddings=false",
        "variant=second_order,support_trains_embeddings=false",
    ],
)
def test_a_setting_without_effect_is_refused(settings: str) -> None:
    with pytest.raises(SettingError, match="no effect"):
        _ = select("methods", f"maml[{settings}]").value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "reptile", "support": 1}, "at least 2 rows"),
        ({"eval_steps": (0,), "min_support": 5}, "min_support has no effect"),
        ({"variant": "reptile", "query": 5}, "query has no effect"),
        ({"outer_rate": 0.5}, "outer_rate has no effect"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Maml.model_validate(settings)


def network_of(made: Learner) -> RateNetwork:
    assert isinstance(made, MamlLearner)
    assert made.rates is not None
    assert made.rates.network is not None
    return made.rates.network


def bend(network: RateNetwork) -> None:
    """Make rates depend on the domain, as they do after training."""
    torch.nn.init.constant_(network.output_H, 2.0)


@pytest.mark.parametrize("variant", ["fomaml", "second_order", "anil"])
def test_a_learned_rate_gets_the_product_of_query_and_support_gradients(variant: str) -> None:
    made = learner(paml_lr=True, variant=variant, support=2, query=1, inner_lr=1.0)
    step_of(made, logistic(3), numbers(**ONE_TASK))
    # ∂L/∂α = (4, 1)·-0.731059 · -(0.25, 0), and softplus' at a_0 is 1 - 1/e. e_p = (1 + 2) / 2.
    expected, network = 0.731059 * 0.632121, network_of(made)
    hidden = np.tanh(1.5 * network.weight_EH.detach().numpy()[0])
    assert float(network.base.grad) == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(network.output_H.grad, expected * hidden, rtol=1e-5)


def query_after(rates: tuple[float, float]) -> tuple[float, np.ndarray, np.ndarray]:
    """`ONE_TASK` by hand after two inner steps: query loss, its gradient, and the sum of the support's."""
    x, y, weights, moved = np.array([[1.0, 1.0], [2.0, 1.0]]), np.array([1.0, 0.0]), np.zeros(2), np.zeros(2)
    for rate in rates:
        grad = (1 / (1 + np.exp(-x @ weights)) - y) @ x / 2
        weights, moved = weights - rate * grad, moved + grad
    logit = np.array([4.0, 1.0]) @ weights
    return np.log1p(np.exp(-logit)), -1 / (1 + np.exp(logit)) * np.array([4.0, 1.0]), moved


@pytest.mark.parametrize("variant", ["fomaml", "second_order"])
def test_over_several_steps_the_gradient_of_a_rate_has_the_order_of_the_variant(variant: str) -> None:
    made = learner(paml_lr=True, variant=variant, support=2, query=1, inner_lr=1.0, inner_steps=2)
    step_of(made, logistic(3), numbers(**ONE_TASK))
    _, query, support = query_after((1.0, 1.0))
    up, down = (query_after((rate, rate))[0] for rate in (1.0 + 1e-5, 1.0 - 1e-5))
    expected = -query @ support if variant == "fomaml" else (up - down) / 2e-5
    assert abs(-query @ support - (up - down) / 2e-5) > 0.01
    assert float(network_of(made).base.grad) == pytest.approx(0.632121 * expected, rel=1e-4)  # type: ignore[arg-type]


def test_gradients_of_rates_weigh_tasks_as_those_of_weights() -> None:
    made = learner(paml_lr=True, support=2, query=1, inner_lr=1.0, tau=0.5, tasks=2)
    step_of(made, logistic(*THREE_SIZES), numbers(**BOTH_TASKS))
    expected = 0.632121 * (3 / 7 * 0.731059 - 3 / 14 * 0.268941)
    assert float(network_of(made).base.grad) == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [1e-4, 0.01, 1.0, 1e3])
def test_learned_rates_start_at_the_constant(schema: Schema, start: float) -> None:
    network = RateNetwork(schema, start)
    for e_E in (torch.zeros(8), torch.arange(8.0)):
        assert network(e_E).item() == pytest.approx(start, rel=1e-5)
    assert network.weight_EH.abs().min() > 0


@pytest.mark.parametrize("variant", ["fomaml", "second_order", "anil"])
def test_the_first_step_is_that_of_a_constant_rate(build_model: Model, data: SplitData, variant: str) -> None:
    rows = torch.nonzero(data.indicator_B == 1)[:16, 0].tolist()
    found = []
    for paml_lr in (False, True):
        model = build_model()
        settings = {"variant": variant, "support": 8, "query": 8, "inner_lr": 0.5, "inner_steps": 2}
        optimizer = meta_step(model, data, rows, paml_lr=paml_lr, **settings)
        found.append([*(parameter.grad for parameter in model.net.parameters()), *optimizer.rows])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_rates_move_no_embedding(build_model: Model, data: SplitData) -> None:
    age, in_city = data.ids_BF[:, 1], data.indicator_B == 1
    rows = [torch.nonzero(in_city & (age == one))[:8, 0] for one in (1, 2)]
    part, model = rows_of(data, torch.cat(rows)), build_model()
    made = learner(paml_lr=True, support=8, query=8, inner_lr=0.5, support_trains_embeddings=False)
    step_of(made, model, part)
    bend(network_of(made))
    optimizer = step_of(made, model, part)
    assert network_of(made).weight_EH.grad.abs().max() > 0.0  # type: ignore[union-attr]
    # Age 1 is a domain feature of the support alone.
    assert embedding_gradient(optimizer, model, 1, field=1).abs().max() == 0.0
    assert embedding_gradient(optimizer, model, 2, field=1).abs().max() > 0.0


def test_before_scoring_each_task_is_adapted_at_its_own_rate() -> None:
    train = numbers([1.0, 2.0, 3.0, 6.0], [1, 0, 1, 0], [1, 1, 2, 2])
    model, dev = logistic(2, 2), numbers([4.0, 4.0], [1, 0], [1, 2])
    made = learner(paml_lr=True, support=2, query=2, min_support=2, inner_lr=1.0, eval_steps=(1,))
    made.select(model, train, dev)
    network = network_of(made)
    bend(network)
    hidden = np.tanh(np.outer([1.5, 4.5], network.weight_EH.detach().numpy()[0]))
    rates = np.log1p(np.exp(np.log(np.e - 1) + 2.0 * hidden.sum(1)))
    # The supports' gradients at zero are (0.25, 0) and (0.75, 0).
    expected = -4.0 * np.array([0.25, 0.75]) * rates
    assert abs(rates[0] - rates[1]) > 0.1
    np.testing.assert_allclose(made.score(model, dev)[Column.SCORE], expected, rtol=1e-5)


def trained(
    build_model: Model, data: SplitData, made: MamlLearner, epochs: int = 2
) -> tuple[CTRModel, Optimizer]:
    model = build_model("maml")
    optimizer = Optimizer(model, AdamConfig(lr=0.02))
    for epoch in range(epochs):
        train_epoch(made, model, optimizer, data, epoch)
    return model, optimizer


def train_epoch(
    made: MamlLearner, model: CTRModel, optimizer: Optimizer, data: SplitData, epoch: int
) -> None:
    order = made.order(data, batch_size=1, generator=np.random.default_rng(epoch))
    for batch in data.batches(order):
        made.step(model, optimizer, batch)


LEARNED = {"paml_lr": True, "support": 8, "query": 8, "inner_lr": 0.1, "min_support": 8, "eval_steps": (5,)}


def test_learned_rates_move_and_are_deterministic(build_model: Model, data: SplitData) -> None:
    found = []
    for unrelated in (1, 2):
        torch.manual_seed(unrelated)
        made = learner(**LEARNED)
        trained(build_model, data, made)
        found.append(network_of(made).state_dict())
    first, second = found
    start = RateNetwork(build_model().schema, 0.1).state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert not torch.equal(value, start[name])


def test_a_constant_rate_adds_nothing_to_the_state() -> None:
    assert set(learner().state_dict()) == {"adaptation_steps", "support"}
