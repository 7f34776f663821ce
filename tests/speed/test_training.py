from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.speed.training import EndlessTraining, SpeedCase

MakeCase = Callable[..., SpeedCase]


def test_batches_continue_in_the_next_epoch(make_case: MakeCase) -> None:
    training = EndlessTraining(make_case())
    sizes = [len(training.next_batch()) for _ in range(8)]
    assert sizes == [64, 64, 64, 8] * 2


def test_epochs_differ_in_order(make_case: MakeCase) -> None:
    training = EndlessTraining(make_case(batch_size=200))
    first, second = training.next_batch(), training.next_batch()
    assert not torch.equal(first.ids_BF, second.ids_BF)
    assert np.array_equal(*(np.sort(batch.ids_BF.numpy(), axis=0) for batch in (first, second)))


def test_a_step_trains(make_case: MakeCase) -> None:
    training = EndlessTraining(make_case())
    before = [weight.clone() for weight in training.model.net.parameters()]
    assert training.step(training.next_batch()).rows == 64
    assert training.optimizer.steps == 1
    assert not all(map(torch.equal, before, training.model.net.parameters()))


def test_stages_receive_the_progress_of_training(
    make_case: MakeCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, progress = EndlessTraining(make_case()), []
    monkeypatch.setattr(training.model, "advance", progress.append)
    for _ in range(2):
        training.step(training.next_batch())
    # Four batches per epoch; annealing takes one epoch.
    assert progress == [1 / 4, 2 / 4]
