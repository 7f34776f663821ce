"""Inspections of a row's runs: what methods report about their trained models, for the drawings that show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ctrbench.errors import StoreError
from ctrbench.plugins.inspection import Inspection
from ctrbench.report.comparison import Row
from ctrbench.runs.store import RunStore


def read_inspections(row: Row, store: RunStore) -> dict[int, Inspection]:
    """Return the inspections of a row's runs by seed; empty for a method without them.

    Raises `StoreError` if the runs report different stages or domains.
    """
    stored = {record.key.seed: store.inspection(record.key) for record in row.finished}
    inspections = {seed: inspection for seed, inspection in stored.items() if inspection is not None}
    contents = {
        (*sorted(inspection.stages), *inspection.domain_D.tolist()) for inspection in inspections.values()
    }
    if len(contents) > 1:
        raise StoreError(
            "inspection data differ between seeds of the same method",
            value=f"{row.method} × {row.backbone}",
            remedy="run all seeds again with one version of the method",
        )
    return inspections


def select_domains(inspection: Inspection, values: np.ndarray, domains: Sequence[int]) -> np.ndarray:
    """Return the rows of an array of the inspection that belong to these domain ids, in their order."""
    index = {domain: i for i, domain in enumerate(inspection.domain_D.tolist())}
    rows: np.ndarray = values[[index[domain] for domain in domains]]
    return rows


def repetition_note(row: Row, inspections: Mapping[int, Inspection]) -> Iterator[str]:
    """Yield a note if an inspected model is not that of the record: its predictions differ."""
    recorded = {record.key.seed: record.result.predictions_sha256 for record in row.finished if record.result}
    repeated = [seed for seed, inspection in inspections.items() if inspection.predictions != recorded[seed]]
    if repeated:
        yield (
            f"{row.method}: inspected in a repetition of the run (seed {', '.join(map(str, repeated))}), whose "
            "predictions differ from the record's in the last digits."
        )
