"""Proposals of settings by optuna's sampler, as a pure function of the seed and of the scores of earlier rounds.

A round is proposed before any of its trials ends, so proposals depend on neither the number of parallel runs nor an
interruption: an interrupted search is replayed from its records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState

from ctrbench.errors import SettingError
from ctrbench.plugins.ranges import Choices, LogRange, SearchRange, Value

NUM_RANDOM = 10
"""Number of proposals that are drawn at random; later ones follow the scores."""
ROUND = 5
"""Number of proposals of a later round."""
MAX_DRAWS = 100
"""Draws in a row that may be invalid, such as settings that exclude each other."""

Settings = Mapping[str, Value]


class Proposals:
    """Proposes settings of one search space, round by round."""

    def __init__(self, space: Mapping[str, SearchRange], *, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.distributions = {name: _distribution(values) for name, values in space.items()}
        sampler = TPESampler(seed=seed, n_startup_trials=NUM_RANDOM)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.pending: list[Trial] = []
        self.num_proposed = 0

    def next_round(self, num_left: int, is_valid: Callable[[Settings], bool]) -> list[Settings]:
        """Propose settings for at most `num_left` trials; raises `SettingError` if no valid settings are found."""
        size = min(num_left, ROUND if self.num_proposed >= NUM_RANDOM else NUM_RANDOM - self.num_proposed)
        proposed = [self._propose(is_valid) for _ in range(size)]
        self.pending = [trial for trial, _ in proposed]
        self.num_proposed += size
        return [settings for _, settings in proposed]

    def _propose(self, is_valid: Callable[[Settings], bool]) -> tuple[Trial, Settings]:
        for _ in range(MAX_DRAWS):
            trial = self.study.ask(self.distributions)
            settings = {name: _rounded(value) for name, value in trial.params.items()}
            if is_valid(settings):
                return trial, settings
            self.study.tell(trial, state=TrialState.FAIL)
        raise SettingError(
            "a search space must contain valid settings",
            value=f"{MAX_DRAWS} proposals in a row were refused",
            remedy="declare ranges of settings that can be combined",
        )

    def add_scores(self, scores: Sequence[float | None]) -> None:
        """Add the scores of the last round in its order; None for a trial that failed."""
        for trial, score in zip(self.pending, scores, strict=True):
            if score is None:
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                self.study.tell(trial, score)
        self.pending = []


def _distribution(values: SearchRange) -> BaseDistribution:
    if isinstance(values, LogRange):
        return FloatDistribution(values.low, values.high, log=True)
    assert isinstance(values, Choices)
    return CategoricalDistribution(values.values)


def _rounded(value: Value) -> Value:
    """Return a number with two significant digits, so that settings can be read and typed."""
    return float(f"{value:.2g}") if isinstance(value, float) else value
