"""Searches for the best settings of methods: trials are runs of one seed, recorded, and judged on dev.

Every trial has a record. A search that is started again proposes the same trials and reads their records, so it goes
on where it stopped, and does nothing once it is complete. The test split is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from warnings import catch_warnings, simplefilter

from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from ctrbench.errors import SettingError
from ctrbench.plugins.base import Method
from ctrbench.plugins.ranges import Choices, SearchRange
from ctrbench.plugins.registry import Selected, select
from ctrbench.plugins.search_space import active_settings, search_space
from ctrbench.runs.grid import Run, to_choice
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.runs.trials import best_of, score
from ctrbench.tuning.proposals import NUM_RANDOM, Proposals, Settings

INDICATOR = "indicator"
"""Name of the indicator in a search space; it is no setting of the method."""


@dataclass(kw_only=True)
class Search:
    """The search for the settings of one method on one backbone; `default` is its first trial."""

    default: Run
    selector: str
    """Method with the settings that are not tuned."""
    space: Mapping[str, SearchRange]
    proposals: Proposals
    num_trials: int
    """Trials beyond the default."""
    trials: list[Run] = field(default_factory=list)
    """All trials so far, the default first."""
    records: list[RunRecord] = field(default_factory=list)

    @property
    def num_planned(self) -> int:
        """Number of all trials, the default included."""
        return 1 + (self.num_trials if self.space else 0)

    def describe(self, record: RunRecord) -> str:
        """Return the settings in which a trial differs from the default, as a selector holds them."""
        default, key = self.default.key, record.key
        changed = {
            name: value
            for name, value in key.method.settings.items()
            if default.method.settings.get(name) != value
        }
        changed |= {INDICATOR: key.indicator} if key.indicator != default.indicator else {}
        return ", ".join(f"{name}={_setting_text(value)}" for name, value in changed.items())

    @property
    def scores(self) -> list[float | None]:
        """Dev AUC of each trial, the default first; None for trials that failed."""
        return [score(record) for record in self.records]

    @property
    def best(self) -> RunRecord | None:
        """The trial with the highest score; None if all failed."""
        return best_of(self.records)

    @property
    def best_score(self) -> float | None:
        """Score of the best trial."""
        return None if self.best is None else score(self.best)

    def importances(self) -> list[tuple[str, float]]:
        """Return the importance of each tuned setting for the score, largest first; none after few trials."""
        if sum(value is not None for value in self.scores[1:]) < NUM_RANDOM:
            return []
        with catch_warnings():
            simplefilter("ignore", ExperimentalWarning)
            shares = get_param_importances(self.proposals.study, evaluator=PedAnovaImportanceEvaluator())
        return list(shares.items())

    def next_round(self) -> list[Run]:
        """Return the trials of the next round; none if the search is complete."""
        default = [] if self.trials else [self.default]
        num_left = self.num_trials + 1 - len(self.trials) - len(default)
        settings = self.proposals.next_round(num_left, self._is_valid) if num_left and self.space else []
        proposed = [*default, *(self._trial(chosen) for chosen in settings)]
        self.trials += proposed
        return proposed

    def add_records(self, records: Sequence[RunRecord]) -> None:
        """Add the records of the last round, in its order."""
        num_defaults = 0 if self.records else 1
        self.records += records
        self.proposals.add_scores([score(record) for record in records[num_defaults:]])

    def _trial(self, settings: Settings) -> Run:
        key, method = self.default.key, self._method(settings)
        indicator = settings.get(INDICATOR, key.indicator)
        key = key.model_copy(update={"method": to_choice(method), "indicator": indicator})
        return replace(self.default, key=key, requested=(method.label, self.default.labels[1]))

    def _method(self, settings: Settings) -> Selected[Method]:
        method = type(select("methods", self.selector).value)
        drawn = {name: value for name, value in settings.items() if name != INDICATOR}
        changed = {
            name: value
            for name, value in active_settings(method, drawn).items()
            if value != method.model_fields[name].default
        }
        return select("methods", with_settings(self.selector, changed))

    def _is_valid(self, settings: Settings) -> bool:
        try:
            method = self._method(settings).value
            _, backbone = self.default.chosen()
            return method.unsupported_reason(backbone.full_plan()) is None
        except SettingError:
            return False


def make_searches(
    runs: Sequence[Run], selectors: Sequence[str], *, num_trials: int, features: Sequence[str]
) -> list[Search]:
    """Return a search per run; `selectors` are the methods of the runs as given, `features` the domain features.

    Unsupported runs are left out. Settings that a selector gives are not tuned.
    """
    selector_of = {select("methods", selector).label: selector for selector in selectors}
    return [
        _make_search(run, selector_of[run.labels[0]], num_trials, features)
        for run in runs
        if not run.unsupported
    ]


def _make_search(run: Run, selector: str, num_trials: int, features: Sequence[str]) -> Search:
    selected = select("methods", selector)
    method = type(selected.value)
    space = {name: values for name, values in search_space(method).items() if name not in selected.settings}
    if selected.value.indexed_by == INDICATOR and len(features) > 1:
        space[INDICATOR] = Choices(*features, "all")
    trial = replace(run, key=run.key.model_copy(update={"is_trial": True}))
    return Search(
        default=trial,
        selector=selector,
        space=space,
        proposals=Proposals(space, seed=run.key.seed),
        num_trials=num_trials,
    )


def replay(searches: Sequence[Search], store: RunStore, execute: Callable[[list[Run]], None]) -> None:
    """Run all searches to their end, round by round; `execute` receives the trials without a record.

    A trial that failed has a record and is not repeated.
    """
    while rounds := [(search, trials) for search in searches if (trials := search.next_round())]:
        trials = [trial for _, part in rounds for trial in part]
        missing = {trial.key.digest: trial for trial in trials if store.find(trial.key) is None}
        if missing:
            execute(list(missing.values()))
        for search, part in rounds:
            search.add_records([_existing(store, trial) for trial in part])


def _existing(store: RunStore, trial: Run) -> RunRecord:
    record = store.find(trial.key)
    assert record is not None, "the engine writes a record per run"
    return record


def with_settings(selector: str, settings: Settings) -> str:
    """Return a selector with more settings.

    >>> with_settings("star[norm=bn]", {"lr": 0.002, "aux": None})
    'star[norm=bn,lr=0.002,aux=none]'
    """
    name, _, inside = selector.removesuffix("]").partition("[")
    parts = [inside] if inside else []
    parts += [f"{key}={_setting_text(value)}" for key, value in settings.items()]
    return f"{name}[{','.join(parts)}]" if parts else name


def _setting_text(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
