from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.speed.training import Case, Training

MakeCase = Callable[..., Case]


def test_batches_go_on_after_the_epoch(make_case: MakeCase) -> None:
    training = Training(make_case())
    sizes = [len(training.next_batch()) for _ in range(8)]
    assert sizes == [64, 64, 64, 8] * 2


def test_epochs_differ_in_order(make_case: MakeCase) -> None:
    training = Training(make_case(batch_size=200))
    first, second = training.next_batch(), training.next_batch()
    assert not torch.equal(first.ids_BF, second.ids_BF)
    assert np.array_equal(*(np.sort(one.ids_BF.numpy(), axis=0) for one in (first, second)))


def test_a_step_trains(make_case: MakeCase) -> None:
    training = Training(make_case())
    before = [weight.clone() for weight in training.model.net.parameters()]
    assert training.step(training.next_batch()).rows == 64
    assert training.optimizer.steps == 1
    assert not all(map(torch.equal, before, training.model.net.parameters()))


def test_stages_hear_how_far_training_is(make_case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    training, heard = Training(make_case()), []
    monkeypatch.setattr(training.model, "advance", heard.append)
    for _ in range(2):
        training.step(training.next_batch())
    # Four batches an epoch, two epochs.
    assert heard == [1 / 8, 2 / 8]
