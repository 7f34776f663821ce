"""Where the time of a step goes: timers that exclude one another, put around a training from outside.

Whatever the step of a learner calls, its parts are told by what every learner shares: the embedding module, the
optimiser and autograd. The rest of the step is forward. A timer that starts within another one stops it meanwhile, so
the phases add up to the time that passed. All of it costs microseconds a call, so speed itself is measured without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ctrbench.speed.training import Training, wait

Phase = Literal["data", "embedding", "forward", "backward", "optimiser"]
"""Cutting the batch; finding, gathering and catching up table rows and making z of them; the network and the loss;
gradients, those of an inner loop included; clearing gradients and updating."""
PHASES: tuple[Phase, ...] = ("data", "embedding", "forward", "backward", "optimiser")


class PhaseClock:
    """Seconds by phase; `wait` is called where a phase begins or ends, before the clock is read."""

    def __init__(
        self, wait: Callable[[], None] = lambda: None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self.wait, self.now = wait, now
        self.seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._open: list[Phase] = []
        self._last = 0.0

    def enter(self, phase: Phase) -> None:
        """Begin a phase; the one it stands in is stopped until `leave`."""
        self._charge()
        self._open.append(phase)

    def leave(self) -> None:
        """End the phase begun last."""
        self._charge()
        self._open.pop()

    @contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """Charge a block to a phase."""
        self.enter(phase)
        try:
            yield
        finally:
            self.leave()

    def _charge(self) -> None:
        self.wait()
        now = self.now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._last
        self._last = now


@dataclass(frozen=True, kw_only=True)
class Split:
    """Some steps and the seconds that each of their phases took."""

    rows: int
    steps: int
    seconds: dict[Phase, float]

    def ms(self, rows: float) -> dict[Phase, float]:
        """Return milliseconds by phase of a step of that many rows."""
        return {phase: 1e3 * passed * rows / self.rows for phase, passed in self.seconds.items()}


def split_steps(training: Training, *, seconds: float) -> Split:
    """Make steps for some seconds, one at least, with timers around their parts."""
    rows, steps, started = 0, 0, time.perf_counter()
    clock = PhaseClock(lambda: wait(training.case.device))
    with watched(training, clock):
        while not steps or time.perf_counter() - started < seconds:
            with clock.within("data"):
                batch = training.next_batch()
            with clock.within("forward"):
                rows += training.step(batch).rows
            steps += 1
    return Split(rows=rows, steps=steps, seconds=clock.seconds)


@contextmanager
def watched(training: Training, clock: PhaseClock) -> Iterator[None]:
    """Charge the parts of a training's steps to their phases; all is as it was when the block ends."""
    optimizer = training.optimizer
    with ExitStack() as stack:
        for name in ("backward", "grad"):
            stack.enter_context(timed(torch.autograd, name, clock, "backward"))
        for name in ("begin", "step"):
            stack.enter_context(timed(optimizer, name, clock, "optimiser"))
        stack.enter_context(timed(optimizer, "read", clock, "embedding"))
        for handle in (
            training.model.embedding.register_forward_pre_hook(lambda *_: clock.enter("embedding")),
            training.model.embedding.register_forward_hook(lambda *_: clock.leave(), always_call=True),
            # A learner may bring an optimiser of its own.
            register_optimizer_step_pre_hook(lambda *_: clock.enter("optimiser")),
            register_optimizer_step_post_hook(lambda *_: clock.leave()),
        ):
            stack.callback(handle.remove)
        yield


@contextmanager
def timed(owner: Any, name: str, clock: PhaseClock, phase: Phase) -> Iterator[None]:  # noqa: ANN401  # a module or an object
    """Charge the calls of one of the owner's functions to a phase."""

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def charged(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever the function takes
            with clock.within(phase):
                return call(*args, **kwargs)

        return charged

    with replaced(owner, name, wrap):
        yield


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Any]) -> Iterator[None]:  # noqa: ANN401
    """Replace one of the owner's functions by what `wrap` makes of it, and restore it."""
    call, is_own = getattr(owner, name), name in vars(owner)
    setattr(owner, name, wrap(call))
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, call)
        else:
            delattr(owner, name)
