"""The outcome of a run as its record: result, timing, code, or the error of a run that failed."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import ctrbench
from ctrbench.errors import StoreError
from ctrbench.eval.measures import DomainTable, Measures, domain_columns
from ctrbench.runs.grid import Run
from ctrbench.runs.machine import commit, machine, peak_memory
from ctrbench.runs.record import (
    Code,
    Evaluation,
    Measured,
    Parameters,
    Result,
    RunRecord,
)
from ctrbench.runs.store import RunStore
from ctrbench.train.loop import Fit


def record_failure(run: Run, store: RunStore, error: str) -> RunRecord:
    """Record that a run failed; return the stored record.

    A finished record is kept, and so is a failed one with the same error, which the run wrote itself.
    """
    existing = store.find(run.key)
    if (
        existing is not None
        and existing.status == "failed"
        and existing.error
        and error.endswith(existing.error)
    ):
        return existing
    record = failed_record(run, error)
    write_record(record, store)
    existing = store.find(run.key)
    return existing if existing is not None and existing.status == "finished" else record


class Clock:
    """Seconds per phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.rows_per_second: float | None = None
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Add the seconds since the last call to a phase."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def take(self, fit: Fit) -> None:
        """Add the seconds that training counted itself; they include those before an interruption."""
        self.seconds |= fit.history.seconds
        if self.seconds["train"] > 0:
            self.rows_per_second = round(fit.history.rows / self.seconds["train"], 1)
        self._last = time.perf_counter()

    def measured(self, run: Run, resumed: int, *, workers: int = 1) -> Measured:
        """Return the measurements so far; memory is the peak of this process."""
        return Measured(
            started=self.started,
            seconds={name: round(value, 3) for name, value in self.seconds.items()},
            rows_per_second=self.rows_per_second,
            peak_memory_bytes=peak_memory(),
            machine=machine(run.key.train["threads"], run.key.train["device"])
            | ({"workers": workers} if workers > 1 else {}),
            resumed=resumed,
            multiply_adds=run.multiply_adds,
        )


def training_result(fit: Fit, parameters: Parameters, *, base_logloss: float | None) -> Result:
    """Return the result of training, without the test split."""
    return Result(
        parameters=parameters,
        best_evaluation=fit.history.best_evaluation,
        steps=fit.steps,
        rows_seen=fit.history.rows,
        base_logloss=base_logloss,
        dev=fit.dev,
        history=tuple(Evaluation(**evaluation) for evaluation in fit.history.evaluations),
        notes=fit.notes,
    )


def with_test(result: Result, measures: Measures, table: DomainTable, sha256: str) -> Result:
    """Return the result of training with the metrics of the test split and the sha256 of its predictions."""
    entries = {
        "test": measures.overall,
        "variants": measures.variants,
        "oracle": measures.oracle,
        "domains": domain_columns(measures.domains, table),
        "bins": measures.bins,
        "predictions_sha256": sha256,
        "influence": measures.influence,
    }
    return result.model_copy(update=entries)


def failed_record(run: Run, error: str) -> RunRecord:
    """Return the record of a run whose process could not write one itself."""
    return RunRecord(
        run=run.key.run,
        digest=run.key.digest,
        key=run.key,
        status="failed",
        error=error,
        code=make_code(run),
        measured=Clock().measured(run, 0),
    )


def write_record(record: RunRecord, store: RunStore) -> None:
    """Write the record unless a finished one exists; another machine may have executed the same run."""
    existing = store.find(record.key)
    if existing is not None and existing.status == "finished":
        return
    try:
        store.write(record)
    except StoreError:
        existing = store.find(record.key)
        if existing is None or existing.status != "finished":
            raise


def make_code(run: Run) -> Code:
    """Return the version of the code and of the plug-ins that a run is executed with."""
    return Code(
        version=ctrbench.__version__,
        commit=commit(),
        method_sha256=run.method.sha256,
        backbone_sha256=run.backbone.sha256,
    )
