from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
import torch

from ctrbench.extend import Estimator
from ctrbench.plugins.registry import plugins
from ctrbench.speed.phases import PHASES, PhaseClock, split_steps, watched
from ctrbench.speed.training import Case, Training

MakeCase = Callable[..., Case]


def ticking() -> PhaseClock:
    """A clock that goes on by one each time it is read."""
    return PhaseClock(now=count().__next__)


TRAINED = [name for name, one in plugins("methods").items() if not issubclass(one.load(), Estimator)]


def test_an_inner_phase_stops_the_outer_one() -> None:
    times = iter([0.0, 1.0, 3.0, 7.0])
    clock = PhaseClock(now=lambda: next(times))
    with clock.within("forward"), clock.within("backward"):
        pass
    assert clock.seconds["forward"] == 1.0 + 4.0
    assert clock.seconds["backward"] == 2.0


def test_what_lies_between_phases_is_not_charged() -> None:
    times = iter([0.0, 1.0, 10.0, 12.0])
    clock = PhaseClock(now=lambda: next(times))
    for _ in range(2):
        with clock.within("data"):
            pass
    assert sum(clock.seconds.values()) == 1.0 + 2.0


def test_the_device_is_waited_for_before_the_clock_is_read() -> None:
    calls: list[str] = []
    clock = PhaseClock(lambda: calls.append("wait"), lambda: calls.append("read") or 0.0)  # type: ignore[func-returns-value]
    with clock.within("data"):
        pass
    assert calls == ["wait", "read"] * 2


@pytest.mark.parametrize("method", [*TRAINED, "maml[variant=second_order]", "maml[paml_lr=true]"])
def test_every_phase_of_every_method_is_found(make_case: MakeCase, method: str) -> None:
    training, clock = Training(make_case(method)), ticking()
    with watched(training, clock), clock.within("forward"):
        batch = training.next_batch()
        clock.enter("data")
        clock.leave()
        training.step(batch)
    assert tuple(clock.seconds) == PHASES
    assert all(passed > 0 for passed in clock.seconds.values())
    # Read for the first time at 0; whatever passed until now was charged to some phase.
    assert sum(clock.seconds.values()) == clock.now() - 1


def test_an_optimiser_of_the_learner_s_own_counts(make_case: MakeCase) -> None:
    clock, weight = ticking(), torch.zeros(1, requires_grad=True)
    weight.grad = torch.ones(1)
    with watched(Training(make_case()), clock):
        torch.optim.SGD([weight]).step()
    assert clock.seconds["optimiser"] == 1


def test_all_is_as_before_afterwards(make_case: MakeCase) -> None:
    training = Training(make_case())
    before = (torch.autograd.backward, torch.autograd.grad, set(vars(training.optimizer)))
    split_steps(training, seconds=0.0)
    assert (torch.autograd.backward, torch.autograd.grad, set(vars(training.optimizer))) == before
    clock = ticking()
    with clock.within("data"):
        training.step(training.next_batch())
    assert clock.seconds["data"] == 1


def test_all_is_as_before_after_a_failure(make_case: MakeCase) -> None:
    training, before = Training(make_case("maml")), torch.autograd.backward
    batch = training.next_batch()
    with pytest.raises(AttributeError), watched(training, ticking()):
        training.learner.step(training.model, training.optimizer, None)  # type: ignore[arg-type]
    with watched(training, ticking()):
        assert torch.autograd.backward is not before
    assert torch.autograd.backward is before
    assert not {"begin", "read", "step"} & set(vars(training.optimizer))
    training.step(batch)


def test_a_split_goes_with_rows(make_case: MakeCase) -> None:
    split = split_steps(Training(make_case()), seconds=0.0)
    assert (split.steps, split.rows) == (1, 64)
    assert all(passed >= 0 for passed in split.seconds.values())
    assert split.ms(64.0) == pytest.approx({name: 1e3 * passed for name, passed in split.seconds.items()})
    assert sum(split.ms(128.0).values()) == pytest.approx(2e3 * sum(split.seconds.values()))
