"""Separate models are bit-equal to the backbone trained on each domain's rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, EmbeddingRule, Optimizer
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select
from ctrbench.train.checkpoint import Checkpoint
from ctrbench.train.config import TrainConfig
from ctrbench.train.learner import Learner, score_rows
from ctrbench.train.loop import Trainer

Model = Callable[..., CTRModel]
BACKBONES = ("dnn[hidden=8-4]", "dcnv2[hidden=8-4,layers=1]", "dcnv2[hidden=8-4,structure=stacked]")


def own(model: CTRModel, city: int) -> dict[str, torch.Tensor]:
    """A domain's parameters, under the names they have in a model for all domains."""
    net, table = f"net.networks.{city - 1}.", f"embedding.tables.{city - 1}."
    return {
        name.replace(net, "net.").replace(table, "embedding.table."): value.detach().clone()
        for name, value in model.state_dict().items()
        if name.startswith((net, table))
    }


def train(model: CTRModel, data: SplitData, steps: list[torch.Tensor], rule: EmbeddingRule = "adam") -> None:
    optimizer = Optimizer(model, AdamConfig(lr=0.01, embedding_rule=rule))
    for rows in steps:
        Learner().step(model, optimizer, data.take(rows))
    optimizer.flush()


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("rule", ["adam", "lazy_adam"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_domain_trains_as_if_alone(
    build_model: Model,
    data: SplitData,
    backbone: str,
    rule: EmbeddingRule,
    of_city: Callable[..., torch.Tensor],
) -> None:
    # Few rows per step, so that table rows miss steps, with steps of other domains between.
    steps = {city: list(of_city(city).split(5))[:8] for city in (1, 2, 3)}
    turns = [rows for three in zip(*(steps[city] for city in (2, 1, 3)), strict=False) for rows in three]
    model = build_model("separate", backbone)
    train(model, data, turns, rule)
    for city in (1, 2, 3):
        alone = build_model("plain", backbone)
        train(alone, data, [rows for rows in turns if int(data.indicator_B[rows[0]]) == city], rule)
        assert_equal(own(model, city), alone.state_dict())
    assert_equal(own(model, 4), build_model("plain", backbone).state_dict())


def test_under_its_own_learner_each_domain_trains_as_plain_does_on_its_rows(
    build_model: Model, data: SplitData
) -> None:
    # Domains of 9 rows and of one, and remainders of 22, 16 and so on, are batches of their own and of full weight.
    model, generator = build_model("separate"), np.random.default_rng(3)
    learner: Learner = select("methods", "separate").value.learner()
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    steps: dict[int, list[torch.Tensor]] = {city: [] for city in range(1, 7)}
    for _ in range(10):
        order = learner.order(data, batch_size=64, generator=generator)
        blocks = np.split(order.rows, order.starts[1:-1])
        assert sorted(order.rows.tolist()) == list(range(len(data)))
        for batch, rows in zip(data.batches(order), blocks, strict=True):
            learner.step(model, optimizer, batch)
            (city,) = batch.indicator_B.unique().tolist()
            steps[city].append(torch.from_numpy(rows))
    optimizer.flush()
    assert [len(steps[city]) for city in range(1, 7)] == [30, 20, 10, 10, 10, 10]
    for city in range(1, 7):
        alone = build_model("plain")
        train(alone, data, steps[city])
        assert_equal(own(model, city), alone.state_dict())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_row_runs_through_its_own_domain_and_unseen_ones_through_the_largest(
    build_model: Model,
    data: SplitData,
    unseen_data: SplitData,
    backbone: str,
    of_city: Callable[..., torch.Tensor],
) -> None:
    model = build_model("separate", backbone)
    train(model, data, [of_city(city)[:30] for city in (1, 2, 3, 4, 5)])
    batch, logits = unseen_data.slice(0, 30), score_rows(model, unseen_data)
    for city in range(7):
        alone = build_model("plain", backbone)
        alone.load_state_dict(own(model, city or 1))
        rows = batch.indicator_B == city
        expected = torch.from_numpy(score_rows(alone, unseen_data))[rows]
        torch.testing.assert_close(torch.from_numpy(logits)[rows], expected)
        assert int(rows.sum()) >= 4


def test_gradients_reach_only_the_domains_of_the_batch(
    build_model: Model, data: SplitData, of_city: Callable[..., torch.Tensor]
) -> None:
    model = build_model("separate")
    torch.autograd.backward(model(data.take(of_city(2, 4))).sum())
    touched = {name for name, value in model.named_parameters() if value.grad is not None}
    assert touched == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(
            ("net.networks.1.", "net.networks.3.", "embedding.tables.1.", "embedding.tables.3.")
        )
    }


def test_parameters_are_counted_once_per_domain(build_model: Model) -> None:
    plain = build_model().num_parameters()
    counts = build_model("separate").num_parameters()
    assert counts == {"embedding": 6 * plain["embedding"], "dense": 0, "per_domain": 6 * plain["dense"]}


def test_too_many_domains_are_refused(build_model: Model) -> None:
    assert build_model("separate[max_domains=6]") is not None
    with pytest.raises(SettingError, match=r"at most 5 domains: 6 values of the indicator.*--indicator"):
        build_model("separate[max_domains=5]")


@pytest.mark.parametrize("setting", ["aux=all", "aux=domain", "norm=pn"])
def test_parts_with_parameters_per_domain_are_refused(setting: str) -> None:
    with pytest.raises(SettingError, match="each model here has one domain"):
        _ = select("methods", f"separate[{setting}]").value


def test_batches_hold_one_domain_unless_mixed() -> None:
    batching = [
        select("methods", one).value.learner().batching for one in ("separate", "separate[batching=mixed]")
    ]  # type: ignore[union-attr]
    assert batching == ["domain", "mixed"]


@pytest.mark.parametrize("batching", ["domain", "mixed"])
def test_resumed_training_is_bit_equal_to_uninterrupted_training(
    schema: Schema, data: SplitData, build_model: Model, tmp_path: Path, batching: str
) -> None:
    method = f"separate[batching={batching}]"
    config = TrainConfig(batch_size=40, epochs=2, patience=2, embedding_size=4)

    def trainer() -> Trainer:
        learner = select("methods", method).value.learner()
        return Trainer(
            model=build_model(method), learner=learner, train=data, dev=data, config=config, seed=3
        )

    whole, stopped, resumed = trainer(), trainer(), trainer()
    whole.fit()
    steps, make = 0, stopped.learner.step

    def interrupted(*given: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        return make(*given)  # type: ignore[arg-type]

    stopped.learner.step = interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(checkpoint=Checkpoint(tmp_path / "checkpoint.pt"), checkpoint_seconds=0.0)
    assert resumed.fit(checkpoint=Checkpoint(tmp_path / "checkpoint.pt")).resumed == 1
    assert_equal(resumed.model.state_dict(), whole.model.state_dict())
