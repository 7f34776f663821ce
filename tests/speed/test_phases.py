from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
import torch

from ctrbench.extend import Estimator
from ctrbench.plugins.registry import plugins
from ctrbench.speed.phases import PHASES, PhaseClock, phase_timers, time_phases
from ctrbench.speed.training import EndlessTraining, SpeedCase

MakeCase = Callable[..., SpeedCase]


def ticking() -> PhaseClock:
    """Return a clock that advances by one on every reading."""
    return PhaseClock(now=count().__next__)


TRAINED = [name for name, one in plugins("methods").items() if not issubclass(one.load(), Estimator)]


def test_an_inner_phase_stops_the_outer_one() -> None:
    times = iter([0.0, 1.0, 3.0, 7.0])
    clock = PhaseClock(now=lambda: next(times))
    with clock.within("forward"), clock.within("backward"):
        pass
    assert clock.seconds["forward"] == 1.0 + 4.0
    assert clock.seconds["backward"] == 2.0


def test_time_between_phases_is_not_charged() -> None:
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
def test_every_phase_of_every_method_is_timed(make_case: MakeCase, method: str) -> None:
    training, clock = EndlessTraining(make_case(method)), ticking()
    with phase_timers(training, clock), clock.within("forward"):
        batch = training.next_batch()
        clock.enter("data")
        clock.leave()
        training.step(batch)
    assert tuple(clock.seconds) == PHASES
    assert all(passed > 0 for passed in clock.seconds.values())
    # The first reading is 0, and all time since then is charged to some phase.
    assert sum(clock.seconds.values()) == clock.now() - 1


def test_a_second_optimizer_of_a_learner_is_timed(make_case: MakeCase) -> None:
    clock, weight = ticking(), torch.zeros(1, requires_grad=True)
    weight.grad = torch.ones(1)
    with phase_timers(EndlessTraining(make_case()), clock):
        torch.optim.SGD([weight]).step()
    assert clock.seconds["optimizer"] == 1


def test_timers_are_removed_afterwards(make_case: MakeCase) -> None:
    training = EndlessTraining(make_case())
    before = (torch.autograd.backward, torch.autograd.grad, set(vars(training.optimizer)))
    time_phases(training, seconds=0.0)
    assert (torch.autograd.backward, torch.autograd.grad, set(vars(training.optimizer))) == before
    clock = ticking()
    with clock.within("data"):
        training.step(training.next_batch())
    assert clock.seconds["data"] == 1


def test_timers_are_removed_after_a_failure(make_case: MakeCase) -> None:
    training, before = EndlessTraining(make_case("maml")), torch.autograd.backward
    batch = training.next_batch()
    with pytest.raises(AttributeError), phase_timers(training, ticking()):
        training.learner.step(training.model, training.optimizer, None)  # type: ignore[arg-type]
    with phase_timers(training, ticking()):
        assert torch.autograd.backward is not before
    assert torch.autograd.backward is before
    assert not {"begin", "read", "step"} & set(vars(training.optimizer))
    training.step(batch)


def test_phase_times_are_proportional_to_rows(make_case: MakeCase) -> None:
    times = time_phases(EndlessTraining(make_case()), seconds=0.0)
    assert (times.steps, times.rows) == (1, 64)
    assert all(passed >= 0 for passed in times.seconds.values())
    assert times.ms(64.0) == pytest.approx({name: 1e3 * passed for name, passed in times.seconds.items()})
    assert sum(times.ms(128.0).values()) == pytest.approx(2e3 * sum(times.seconds.values()))
