"""The parts of a planned study with the records of their runs, and the study's files drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctrbench.names import Column, DomainColumn
from ctrbench.studies.draw import Domain, StudyFiles, draw_study, make_part

if TYPE_CHECKING:
    from ctrbench.runs.record import RunRecord
    from ctrbench.runs.store import RunStore
    from ctrbench.studies.plan import Planned
    from ctrbench.studies.study import Study


def draw_planned(study: Study, planned: Sequence[Planned], *, store: RunStore, out: Path) -> StudyFiles:
    """Write the files of a study from the records of its planned runs; runs without a record are left out."""
    parts = [make_part(_records(part, store), labels=part.labels, domains=_domains(part)) for part in planned]
    return draw_study(study, parts, store=store, out=out)


def _records(part: Planned, store: RunStore) -> list[RunRecord]:
    return [record for run in part.runs if (record := store.find(run.key)) is not None]


def _domains(part: Planned) -> dict[int, Domain]:
    features = part.prepared.manifest.domain_sets[part.domain_set].features
    table = part.prepared.domain_table(part.domain_set).select(Column.DOMAIN, DomainColumn.KEY, *features)
    return {domain: Domain(name=name, values=tuple(values)) for domain, name, *values in table.iter_rows()}
