"""The runs of a study: one grid per domain set, and the runs that are still missing for its drawing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ctrbench.data.prepared import Prepared
from ctrbench.errors import SettingError
from ctrbench.runs.experiment import Experiment, Grid
from ctrbench.runs.grid import Run, check_choices, make_config, make_grid, parse_seeds, usual_window
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import is_file
from ctrbench.studies.study import NESTED, REPRESENTATIVE, Study, nested_sets
from ctrbench.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """The runs of one domain set of a study."""

    prepared: Prepared
    domain_set: str
    runs: tuple[Run, ...]
    labels: dict[str, str]
    """The study's label per digest of a method, in order."""


def study_config(study: Study) -> TrainConfig:
    """Return the training configuration of a study; settings it does not name are the defaults."""
    fields = TrainConfig.model_fields
    for name in study.train:
        if name not in fields:
            raise SettingError(
                "no such training setting", value=name, remedy=f"settings: {', '.join(sorted(fields))}"
            )
    # As with the command's option, a window of 0 means all rows.
    return make_config(**{**study.train, "window": study.train.get("window") or None})


def plan_study(study: Study, prepared: Prepared, *, seeds: str | None = None) -> tuple[PlannedPart, ...]:
    """Return the runs of a study on a dataset, one part per domain set; `seeds` overrides the study's."""
    seed_list, config = parse_seeds(str(study.seeds) if seeds is None else seeds), study_config(study)
    if "window" not in study.train:
        config = config.model_copy(update={"window": usual_window(prepared)})
    # A domain set may be added to the dataset, so all else is checked before.
    check_choices(
        prepared.manifest.card,
        methods=list(study.methods.values()),
        backbones=study.backbones,
        indicator=None,
    )
    parts = []
    for domain_set in _domain_sets(study, prepared):
        name = domain_set
        if domain_set == REPRESENTATIVE:
            prepared, name = prepared.ensure_domains((prepared.manifest.card.representative,))
        runs: dict[str, Run] = {}
        labels: dict[str, str] = {}
        for label, selector in study.methods.items():
            grid = make_grid(
                prepared,
                methods=[selector],
                backbones=study.backbones,
                seeds=seed_list,
                domain_set=name,
                indicator=None,
                config=config,
            )
            digest = grid[0].key.method.digest
            if digest in labels:
                raise SettingError("a study must list each method once", value=f"{labels[digest]}, {label}")
            labels[digest] = label
            runs |= {run.key.digest: run for run in grid}
        ordered = sorted(runs.values(), key=lambda run: run.key.seed)
        parts.append(PlannedPart(prepared=prepared, domain_set=name, runs=tuple(ordered), labels=labels))
    return tuple(parts)


def _domain_sets(study: Study, prepared: Prepared) -> tuple[str, ...]:
    if study.domain_sets == (NESTED,):
        return nested_sets(prepared.manifest.card.domain_sets)
    for name in study.domain_sets:
        if name != REPRESENTATIVE and name not in prepared.manifest.domain_sets:
            names = ", ".join(prepared.manifest.domain_sets)
            raise SettingError(
                "no such domain set", value=name, remedy=f"domain sets: {names}, {REPRESENTATIVE}"
            )
    return study.domain_sets


def make_experiment(study: Study, parts: Iterable[PlannedPart], store: RunStore) -> Experiment:
    """Return the runs of a study; missing are those without a finished record or an inspection that is needed."""
    grids = tuple(
        Grid(prepared=part.prepared, runs=part.runs, missing=tuple(_missing_runs(study, part, store)))
        for part in parts
    )
    experiment = Experiment(grids=grids, config=study_config(study), store=store)
    reasons = [run.unsupported for run in experiment.runs]
    if all(reasons):
        remedy = "choose other backbones or methods in the study"
        raise SettingError(
            "a method of a study must support one of its backbones", value=reasons[0], remedy=remedy
        )
    return experiment


def _missing_runs(study: Study, part: PlannedPart, store: RunStore) -> Iterator[Run]:
    needs_inspection = study.drawing.needs_inspection
    unfinished = {run.key.digest for run in store.unfinished(part.runs)}
    for run in part.runs:
        lacks_inspection = (
            needs_inspection
            and run.unsupported is None
            and _is_inspected(run)
            and not is_file(store.inspection_file(run.key))
        )
        if lacks_inspection or run.key.digest in unfinished:
            yield run


def _is_inspected(run: Run) -> bool:
    method, _ = run.chosen()
    return method.inspects
