from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import pytest
import torch
from torch import nn

from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.schema import Schema
from ctrbench.train.side_network import SideNetwork

CPU, LR = torch.device("cpu"), 0.02


@pytest.fixture
def model(build_model: Callable[..., CTRModel]) -> CTRModel:
    return build_model()


def make(schema: Schema) -> nn.Linear:
    network = nn.Linear(schema.domain_width, 1)
    nn.init.ones_(network.weight)
    nn.init.zeros_(network.bias)
    return network


def train(side: SideNetwork[nn.Linear], model: CTRModel, steps: int = 1) -> nn.Linear:
    optimizer = Optimizer(model, AdamConfig(lr=LR))
    for _ in range(steps):
        side.begin()
        network = side.of(model, CPU)
        network(torch.arange(1.0, 1.0 + network.in_features)).square().sum().backward()
        side.step(optimizer)
    return network


def test_it_learns_at_the_rate_of_the_model(model: CTRModel) -> None:
    network = train(SideNetwork(make), model)
    assert network.bias.item() == pytest.approx(-LR, rel=1e-3)


def test_there_is_no_state_before_the_first_step(model: CTRModel) -> None:
    side = SideNetwork(make)
    assert side.state_dict() is None
    side.of(model, CPU)
    assert side.state_dict() is None


def test_training_resumes_from_its_state(model: CTRModel) -> None:
    side, other, file = SideNetwork(make), SideNetwork(make), BytesIO()
    train(side, model, steps=3)
    torch.save(side.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(train(side, model, steps=2).weight, train(other, model, steps=2).weight)


def test_a_restored_state_is_kept_until_the_network_is_made(model: CTRModel) -> None:
    side, other = SideNetwork(make), SideNetwork(make)
    train(side, model)
    other.load_state_dict(side.state_dict())
    state = other.state_dict()
    assert state is not None
    assert torch.equal(state["network"]["weight"], side.of(model, CPU).weight)
    assert torch.equal(other.of(model, CPU).weight, side.of(model, CPU).weight)


def test_a_saved_state_does_not_change_with_training(model: CTRModel) -> None:
    side, other = SideNetwork(make), SideNetwork(make)
    weight = train(side, model).weight.detach().clone()
    state = side.state_dict()
    other.load_state_dict(state)
    assert state is not None
    moments = [moment.clone() for moment in state["adam"]["state"][0].values()]
    for trained in (side, other):
        train(trained, model)
    assert torch.equal(state["network"]["weight"], weight)
    assert all(torch.equal(*pair) for pair in zip(state["adam"]["state"][0].values(), moments, strict=True))
