"""A study as runs: its domain sets found in the data, a grid for each, and what its drawing needs of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ctrbench.data.prepared import Prepared
from ctrbench.errors import SettingError
from ctrbench.runs.grid import Run, make_config, make_grid, parse_seeds, usual_window
from ctrbench.runs.store import RunStore
from ctrbench.studies.study import NESTED, REPRESENTATIVE, Study, nested_sets
from ctrbench.train.config import TrainConfig

SHOWN = ("sparsity", "masks")
"""Drawings of what methods show of their models."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The runs of one domain set of a study."""

    prepared: Prepared
    domain_set: str
    runs: tuple[Run, ...]
    labels: dict[str, str]
    """The study's label of each method, by digest, in order."""


def study_config(study: Study) -> TrainConfig:
    """Return the training configuration of a study; settings it does not name are the defaults."""
    known = TrainConfig.model_fields
    for name in study.train:
        if name not in known:
            raise SettingError(
                "no such training setting", value=name, remedy=f"known: {', '.join(sorted(known))}"
            )
    # As with the command's option, 0 stands for all rows.
    return make_config(**{**study.train, "window": study.train.get("window") or None})


def plan_study(study: Study, prepared: Prepared, *, seeds: str | None = None) -> tuple[Planned, ...]:
    """Return the runs of a study on a dataset, one part a domain set; `seeds` overrules the study's."""
    chosen, config = parse_seeds(seeds or str(study.seeds)), study_config(study)
    if "window" not in study.train:
        config = config.model_copy(update={"window": usual_window(prepared)})
    parts = []
    for wanted in _domain_sets(study, prepared):
        name = wanted
        if wanted == REPRESENTATIVE:
            prepared, name = prepared.ensure_domains((prepared.manifest.card.representative,))
        runs: dict[str, Run] = {}
        labels: dict[str, str] = {}
        for label, selector in study.methods.items():
            grid = make_grid(
                prepared,
                methods=[selector],
                backbones=study.backbones,
                seeds=chosen,
                domain_set=name,
                indicator=None,
                config=config,
            )
            digest = grid[0].key.method.digest
            if digest in labels:
                raise SettingError("two methods of a study are the same", value=f"{labels[digest]}, {label}")
            labels[digest] = label
            runs |= {run.key.digest: run for run in grid}
        ordered = sorted(runs.values(), key=lambda run: run.key.seed)
        parts.append(Planned(prepared=prepared, domain_set=name, runs=tuple(ordered), labels=labels))
    return tuple(parts)


def _domain_sets(study: Study, prepared: Prepared) -> tuple[str, ...]:
    if study.domain_sets == (NESTED,):
        return nested_sets(prepared.manifest.card.domain_sets)
    for name in study.domain_sets:
        if name != REPRESENTATIVE and name not in prepared.manifest.domain_sets:
            known = ", ".join(prepared.manifest.domain_sets)
            raise SettingError("no such domain set", value=name, remedy=f"known: {known}, {REPRESENTATIVE}")
    return study.domain_sets


def to_make(study: Study, parts: Iterable[Planned], store: RunStore) -> list[Run]:
    """Return the runs still to be made: without a record, or without what the drawing needs beside it."""
    return list(_to_make(study, parts, store))


def _to_make(study: Study, parts: Iterable[Planned], store: RunStore) -> Iterator[Run]:
    for part in parts:
        unfinished = {run.key.digest for run in store.unfinished(part.runs)}
        for run in part.runs:
            lacks = study.draw in SHOWN and _shows(run) and not store.inspection_file(run.key).exists()
            if (run.unsupported is None and lacks) or run.key.digest in unfinished:
                yield run


def _shows(run: Run) -> bool:
    from ctrbench.plugins.base import Method

    kind = run.method.load()
    return issubclass(kind, Method) and kind.inspects
