from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData, Window
from ctrbench.nn.model import CTRModel
from ctrbench.train.config import TrainConfig
from ctrbench.train.learner import Learner
from ctrbench.train.stepper import Stepper

CONFIG = TrainConfig(embedding_size=4, batch_size=64, epochs=2, anneal_epochs=2)
BATCHES = 5
"""Number of batches of 64 rows in the 300 rows of `data`."""


class Advances:
    """Records the progress that a model receives."""

    def __init__(self, model: CTRModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.progress: list[float] = []
        monkeypatch.setattr(model, "advance", self.progress.append)


def window(data: SplitData, *, before: float = 0.0, share: float = 1.0) -> Window:
    return Window(data=data, generator=np.random.default_rng(0), before=before, share=share)


def run_window(stepper: Stepper, rows: Window, *, epoch: int = 0, first: int = 0) -> list[float]:
    """Train on a window and return the losses."""
    order = stepper.order(rows.data, rows.generator, share=rows.share)
    return [float(output.loss) for output in stepper.steps(rows, order, epoch=epoch, first=first)]


def test_stages_receive_the_share_of_planned_steps(
    build_model: Callable[..., CTRModel], data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model()
    advances, stepper = Advances(model, monkeypatch), Stepper(model, Learner(), CONFIG)
    run_window(stepper, window(data))
    assert stepper.planned_steps == 2 * BATCHES
    assert advances.progress == [step / 10 for step in (1, 2, 3, 4, 5)]


def test_progress_never_exceeds_one(
    build_model: Callable[..., CTRModel], data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model()
    advances, stepper = Advances(model, monkeypatch), Stepper(model, Learner(), CONFIG, planned_steps=2)
    run_window(stepper, window(data))
    assert advances.progress == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_progress_within_a_streamed_epoch_follows_the_rows(
    build_model: Callable[..., CTRModel], data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model()
    advances, stepper = Advances(model, monkeypatch), Stepper(model, Learner(), CONFIG)
    run_window(stepper, window(data, before=0.25, share=0.5), epoch=1, first=3)
    assert stepper.planned_steps == 4 * BATCHES
    assert advances.progress == [(1 + 0.25 + 0.5 * done / 5) / 2 for done in (4, 5)]


def test_annealing_has_a_length_of_its_own(
    build_model: Callable[..., CTRModel], data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model()
    advances = Advances(model, monkeypatch)
    stepper = Stepper(model, Learner(), CONFIG.model_copy(update={"epochs": 8, "anneal_epochs": 0.5}))
    run_window(stepper, window(data))
    assert stepper.planned_steps == 8 * BATCHES
    assert advances.progress == pytest.approx([0.4, 0.8, 1.0, 1.0, 1.0])


def test_a_window_can_be_entered_at_any_batch(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    whole, resumed = (Stepper(build_model(), Learner(), CONFIG) for _ in range(2))
    losses = run_window(whole, window(data))
    order = resumed.order(data, np.random.default_rng(0))
    first = [float(resumed.step(batch).loss) for batch in list(data.batches(order))[:2]]
    assert first + run_window(resumed, window(data), first=2) == losses


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_schedule_sets_the_rate_of_each_step(
    build_model: Callable[..., CTRModel], data: SplitData, *, share: float
) -> None:
    stepper = Stepper(build_model("plain[lr=0.1,lr_schedule=cosine]"), Learner(), CONFIG)
    rows, rates = window(data, share=share), []
    order = stepper.order(data, rows.generator, share=share)
    for _ in stepper.steps(rows, order, epoch=0):
        rates.append(stepper.optimizer.lr)
    steps = round(2 * BATCHES / share)
    expected = [0.05 * (1.0 + np.cos(np.pi * step / steps)) for step in range(BATCHES)]
    assert rates == pytest.approx(expected)


def test_a_restored_stepper_makes_the_same_steps(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    saved, restored = (Stepper(build_model(), Learner(), CONFIG) for _ in range(2))
    run_window(saved, window(data))
    restored.load_state_dict(saved.state_dict())
    batch = replace(data.slice(0, 64), weight=0.5)
    assert torch.equal(saved.step(batch).loss, restored.step(batch).loss)
    assert restored.optimizer.steps == BATCHES + 1


def test_the_model_is_in_training_mode(build_model: Callable[..., CTRModel]) -> None:
    assert Stepper(build_model().eval(), Learner(), CONFIG).model.training
