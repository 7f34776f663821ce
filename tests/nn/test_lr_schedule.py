"""Learning rates that change in training: their formulas, and the missed steps of table rows."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from torch import nn

from ctrbench.nn.common import CommonSettings, LrSchedule
from ctrbench.nn.kernels import adam
from ctrbench.nn.kernels.missed_steps import MissedSteps, ScheduledSteps
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.tables import RowTable

STEPS = 700
"""More steps than the sums of missed steps reach back."""
START = torch.randn(6, 3, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 8),
        ("cosine", [0.5 * (1.0 + math.cos(math.pi * step / 8)) for step in range(8)]),
        # Two epochs of four steps, and a warm-up of 0.75 epochs, which are three steps.
        ("warmup", [1 / 3, 2 / 3, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_factors_of_the_learning_rate(schedule: LrSchedule, expected: list[float]) -> None:
    common = CommonSettings(lr_schedule=schedule, lr_warmup=0.75)
    assert [common.lr_factor(step / 8, 8, 2) for step in range(8)] == pytest.approx(expected)


def test_warmup_and_cosine_are_multiplied() -> None:
    schedules: tuple[LrSchedule, ...] = ("warmup_cosine", "warmup", "cosine")
    both, first, second = (CommonSettings(lr_schedule=name).lr_factor(0.01, 1000, 2) for name in schedules)
    assert both == pytest.approx(first * second)
    assert first < 1.0


def rate(step: int) -> float:
    return 0.01 * (1.2 + math.sin(step / 7.0))


def visits() -> list[list[int]]:
    """The rows of each step: the first one every time, the last one hardly ever."""
    generator = np.random.default_rng(0)
    chance = np.array([1.0, 0.5, 0.1, 0.02, 0.005, 0.003])
    return [np.flatnonzero(generator.random(6) < chance).tolist() for _ in range(STEPS)]


class OneTable(nn.Module):
    def __init__(self, *, own_steps: bool = False) -> None:
        super().__init__()
        self.table = RowTable(START.clone(), "embedding", own_steps=own_steps)


def make_steps(model: OneTable, optimizer: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.lr = rate(step)
        optimizer.begin()
        rows = optimizer.read(model.table, torch.tensor(visits()[step]))
        torch.autograd.backward((rows - math.cos(step)).square().sum())
        optimizer.step()


@pytest.mark.parametrize("own_steps", [False, True])
@pytest.mark.parametrize("form", [adam.LoopRowAdam, adam.TensorRowAdam])
def test_missed_steps_have_the_rates_of_their_time(
    form: type[adam.RowAdam], monkeypatch: pytest.MonkeyPatch, *, own_steps: bool
) -> None:
    monkeypatch.setattr("ctrbench.nn.optim.row_adam", form)
    model, dense = OneTable(own_steps=own_steps), nn.Parameter(START.clone())
    optimizer = Optimizer(model, AdamConfig(is_scheduled=True))
    theirs = torch.optim.Adam([dense])
    for step, rows in enumerate(visits()):
        theirs.param_groups[0]["lr"] = rate(step)
        theirs.zero_grad()
        torch.autograd.backward((dense[rows] - math.cos(step)).square().sum())
        theirs.step()
    make_steps(model, optimizer, 0, STEPS)
    optimizer.flush()
    torch.testing.assert_close(model.table.weight.detach(), dense.detach(), rtol=1e-4, atol=2e-5)


def test_a_constant_rate_gives_the_sums_of_the_closed_form() -> None:
    config = AdamConfig(lr=0.01)
    constant, scheduled = MissedSteps(config), ScheduledSteps(config)
    for step in range(1, STEPS + 1):
        scheduled.count(step, 0.01)
    last_U = torch.tensor([1, 5, 100, STEPS - 3, STEPS])
    for expected, actual in zip(
        constant.sums(last_U, STEPS - last_U), scheduled.sums(last_U, STEPS - last_U), strict=True
    ):
        torch.testing.assert_close(actual, 0.01 * expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", [adam.LoopRowAdam, adam.TensorRowAdam])
@pytest.mark.parametrize("rule", ["embedding", "domain"])
def test_a_rate_of_zero_moves_nothing(
    rule: str, form: type[adam.RowAdam], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.nn.optim.row_adam", form)
    model = OneTable()
    model.table.rule = rule  # type: ignore[assignment]
    optimizer = Optimizer(model, AdamConfig(is_scheduled=True))
    optimizer.lr = 0.0
    for factor in (0.0, 1.0):
        optimizer.begin()
        torch.autograd.backward((factor * optimizer.read(model.table, torch.tensor([1, 2]))).sum())
        optimizer.step()
    optimizer.flush()
    torch.testing.assert_close(model.table.weight.detach(), START)


@pytest.mark.parametrize("own_steps", [False, True])
def test_a_restored_optimizer_continues_bit_for_bit(*, own_steps: bool) -> None:
    model, other = OneTable(own_steps=own_steps), OneTable(own_steps=own_steps)
    whole, restored = (Optimizer(part, AdamConfig(is_scheduled=True)) for part in (model, other))
    make_steps(model, whole, 0, 600)
    file = BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    make_steps(model, whole, 600, STEPS)
    make_steps(other, restored, 600, STEPS)
    for optimizer in (whole, restored):
        optimizer.flush()
    assert torch.equal(model.table.weight, other.table.weight)
