"""The time of a step by phase, from timers that are attached to a training from outside.

The phases are recognized by the parts that all learners share: the embedding module, the optimizer and autograd; the
rest of a step is forward. A timer that starts within another one pauses it, so the phases add up to the elapsed time.
Each timer call takes microseconds, so speed itself is measured without timers.
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

from ctrbench.speed.training import EndlessTraining, wait

Phase = Literal["data", "embedding", "forward", "backward", "optimizer"]
"""Part of a step.

Data: taking the rows of a batch. Embedding: finding and gathering table rows, applying their deferred updates, and
concatenating z. Forward: network and loss. Backward: gradients, those of inner loops included. Optimizer: clearing
gradients and updating weights.
"""
PHASES: tuple[Phase, ...] = ("data", "embedding", "forward", "backward", "optimizer")


class PhaseClock:
    """Elapsed seconds by phase; `wait` is called at the start and the end of a phase, before the clock is read."""

    def __init__(
        self, wait: Callable[[], None] = lambda: None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self.wait, self.now = wait, now
        self.seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._open: list[Phase] = []
        self._last = 0.0

    def enter(self, phase: Phase) -> None:
        """Start a phase and pause the enclosing one until `leave`."""
        self._add_elapsed()
        self._open.append(phase)

    def leave(self) -> None:
        """End the innermost phase."""
        self._add_elapsed()
        self._open.pop()

    @contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """Charge the time of a block to a phase."""
        self.enter(phase)
        try:
            yield
        finally:
            self.leave()

    def _add_elapsed(self) -> None:
        self.wait()
        now = self.now()
        if self._open:
            self.seconds[self._open[-1]] += now - self._last
        self._last = now


@dataclass(frozen=True, kw_only=True)
class PhaseTimes:
    """Seconds by phase of some steps."""

    rows: int
    steps: int
    seconds: dict[Phase, float]

    def ms(self, rows: float) -> dict[Phase, float]:
        """Return milliseconds by phase for a step of `rows` rows."""
        return {phase: 1e3 * passed * rows / self.rows for phase, passed in self.seconds.items()}


def time_phases(training: EndlessTraining, *, seconds: float) -> PhaseTimes:
    """Make at least one step, for `seconds`, with timers around the parts of each step."""
    rows, steps, started = 0, 0, time.perf_counter()
    clock = PhaseClock(lambda: wait(training.case.device))
    with phase_timers(training, clock):
        while not steps or time.perf_counter() - started < seconds:
            with clock.within("data"):
                batch = training.next_batch()
            with clock.within("forward"):
                rows += training.step(batch).rows
            steps += 1
    return PhaseTimes(rows=rows, steps=steps, seconds=clock.seconds)


@contextmanager
def phase_timers(training: EndlessTraining, clock: PhaseClock) -> Iterator[None]:
    """Charge the parts of a training's steps to their phases, and remove all timers at the end of the block."""
    optimizer = training.optimizer
    with ExitStack() as stack:
        for name in ("backward", "grad"):
            stack.enter_context(timed(torch.autograd, name, clock, "backward"))
        for name in ("begin", "step"):
            stack.enter_context(timed(optimizer, name, clock, "optimizer"))
        stack.enter_context(timed(optimizer, "read", clock, "embedding"))
        for handle in (
            training.model.embedding.register_forward_pre_hook(lambda *_: clock.enter("embedding")),
            training.model.embedding.register_forward_hook(lambda *_: clock.leave(), always_call=True),
            # A learner may have a second optimizer.
            register_optimizer_step_pre_hook(lambda *_: clock.enter("optimizer")),
            register_optimizer_step_post_hook(lambda *_: clock.leave()),
        ):
            stack.callback(handle.remove)
        yield


@contextmanager
def timed(owner: Any, name: str, clock: PhaseClock, phase: Phase) -> Iterator[None]:  # noqa: ANN401  # a module or an object
    """Charge the calls of a function of a module or an object to a phase."""

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def charged(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # any arguments of the function
            with clock.within(phase):
                return call(*args, **kwargs)

        return charged

    with replaced(owner, name, wrap):
        yield


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Any]) -> Iterator[None]:  # noqa: ANN401
    """Replace a function of a module or an object by `wrap` of it, and restore it at the end of the block."""
    call, is_own = getattr(owner, name), name in vars(owner)
    setattr(owner, name, wrap(call))
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, call)
        else:
            delattr(owner, name)
