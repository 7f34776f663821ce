"""Execute one run, from its key to its record: load, build, train, read the test split once, measure, write.

The inputs are shards, the outputs a checkpoint during training, then predictions and a record.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ctrbench.data.batches import RowSource, SplitData
from ctrbench.errors import SettingError
from ctrbench.failures import describe_failure, is_failure
from ctrbench.names import Column, Split
from ctrbench.nn.exchange import Workers
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import Schema
from ctrbench.plugins.base import Estimator, Method
from ctrbench.plugins.inspection import Inspection
from ctrbench.runs.grid import Run
from ctrbench.runs.machine import device_of, reset_peak_memory
from ctrbench.runs.outcome import Clock, make_code, training_result, with_test, write_record
from ctrbench.runs.predictions import write_inspection, write_predictions
from ctrbench.runs.record import Parameters, Result, RunKey, RunRecord
from ctrbench.runs.run_data import RunData, base_logloss, domain_table, open_data
from ctrbench.runs.schema import make_schema, with_min_count
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import Location, remove_file, write_text
from ctrbench.train.checkpoint import Checkpoint, CheckpointMismatchError
from ctrbench.train.config import TrainConfig
from ctrbench.train.dev import dev_metrics, score_piece, selection_score
from ctrbench.train.history import History
from ctrbench.train.loop import CHECKPOINT_SECONDS, Fit, Tick, Trainer


def execute(
    run: Run,
    store: RunStore,
    *,
    progress: Callable[[Tick], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    workers: Workers | None = None,
) -> RunRecord:
    """Execute one run and write its record; a run that fails has a record too.

    A finished record is not replaced: the run is then repeated for its predictions and inspection only. With
    `workers`, this process is the first of several that share the run; the others call `run_secondary_worker`.
    """
    clock = Clock()
    result, error, resumed = None, None, 0
    try:
        if run.unsupported is None:
            result, resumed = _execute_run(run, store, clock, progress, checkpoint_seconds, workers)
    except BaseException as problem:  # an error in a plug-in ends this run, not the others
        if not is_failure(problem):
            raise
        error = describe_failure(problem)
        _write_traceback(store.folder(run.key))
    record = RunRecord(
        run=run.key.run,
        digest=run.key.digest,
        key=run.key,
        status="finished" if result else "failed" if error else "unsupported",
        error=error or run.unsupported,
        code=make_code(run),
        measured=clock.measured(run, resumed, workers=1 if workers is None else workers.size),
        result=result,
    )
    write_record(record, store)
    if result is not None:
        remove_file(store.checkpoint_file(run.key))
    return record


def _write_traceback(folder: Location) -> None:
    text = traceback.format_exc().encode("utf-8", "backslashreplace").decode("utf-8")
    write_text(folder / "traceback.txt", text)


def _execute_run(
    run: Run,
    store: RunStore,
    clock: Clock,
    progress: Callable[[Tick], None] | None,
    checkpoint_seconds: float,
    workers: Workers | None,
) -> tuple[Result, int]:
    reset_peak_memory()
    key, config = run.key, TrainConfig.model_validate(run.key.train)
    config.set_up_process()
    data = RunData(
        prepared=open_data(key, store.home), key=key, config=config, device=_device_of_run(config, workers)
    )
    trained = _train(run, store, data, clock, progress, checkpoint_seconds, workers)
    clock.take(trained.fit)
    result = training_result(trained.fit, trained.parameters, base_logloss=base_logloss(data.prepared))
    if not key.is_trial:
        result = _add_test(result, trained, data, store)
        clock.lap("test")
    return result, trained.fit.resumed


def _add_test(result: Result, trained: _Trained, data: RunData, store: RunStore) -> Result:
    """Score the test split, write predictions and inspection, and return the result with the metrics."""
    key, test = data.key, data.rows(Split.TEST)
    table = domain_table(data.prepared, key)
    measures, sha256 = write_predictions(test, trained.score, table, store.predictions_file(key))
    write_inspection(trained.inspect(test), sha256, store.inspection_file(key))
    return with_test(result, measures, table, sha256)


def run_secondary_worker(run: Run, store: RunStore, workers: Workers) -> None:
    """Train and score as one of the other workers of a shared run; write nothing."""
    key, config = run.key, TrainConfig.model_validate(run.key.train)
    config.set_up_process()
    data = RunData(
        prepared=open_data(key, store.home), key=key, config=config, device=_device_of_run(config, workers)
    )
    trained = _train(run, store, data, Clock(), None, CHECKPOINT_SECONDS, workers)
    if not key.is_trial:
        for piece in data.rows(Split.TEST).pieces():
            trained.score(piece)


def _device_of_run(config: TrainConfig, workers: Workers | None) -> torch.device:
    return device_of(config) if workers is None else workers.device


def _train(
    run: Run,
    store: RunStore,
    data: RunData,
    clock: Clock,
    progress: Callable[[Tick], None] | None,
    checkpoint_seconds: float,
    workers: Workers | None,
) -> _Trained:
    key, config, (method, backbone) = run.key, data.config, run.chosen()
    train, dev = data.rows(Split.TRAIN), data.rows(Split.DEV)
    schema = with_min_count(make_schema(data.prepared, key), data.prepared, method.min_count)
    estimator = method.as_estimator()
    if estimator is not None:
        clock.lap("load")
        return _fit_estimator(estimator, train, dev, schema, key, workers)

    def new_trainer() -> Trainer:
        plan = method.apply(backbone.full_plan())
        model = CTRModel(plan, schema, seed=key.seed, precision=config.precision).to(data.device)
        torch.manual_seed(key.seed)
        return Trainer(
            model=model, learner=method.learner(), train=train, dev=dev, config=config, seed=key.seed,
            workers=workers,
        )  # fmt: skip

    trainer, checkpoint = new_trainer(), Checkpoint(store.checkpoint_file(key), key.digest)
    clock.lap("load")
    try:
        fit = trainer.fit(checkpoint=checkpoint, progress=progress, checkpoint_seconds=checkpoint_seconds)
    except CheckpointMismatchError:
        checkpoint.remove()
        trainer = new_trainer()
        fit = trainer.fit(checkpoint=checkpoint, progress=progress, checkpoint_seconds=checkpoint_seconds)
    model = trainer.model
    return _Trained(
        fit=fit,
        parameters=Parameters(**model.num_parameters()),
        score=partial(score_piece, model, trainer.learner, workers=workers),
        inspect=partial(_inspect_model, method, model),
    )


def _inspect_model(method: Method, model: CTRModel, test: RowSource) -> Inspection | None:
    """Return the method's inspection of the model, on the latest rows where rows are streamed; None without one."""
    return method.inspect(model, test.latest()) if method.inspects else None


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """Results of training that predictions and records need."""

    fit: Fit
    parameters: Parameters
    score: Callable[[SplitData], dict[str, np.ndarray]]
    inspect: Callable[[RowSource], Inspection | None]


def _fit_estimator(
    estimator: Estimator,
    train: RowSource,
    dev: RowSource,
    schema: Schema,
    key: RunKey,
    workers: Workers | None,
) -> _Trained:
    """Fit an estimator; its history is that of one pass over the training rows."""
    if workers is not None:
        remedy = "leave out --workers"
        raise SettingError("an estimator must be fitted by one process", value=key.method.name, remedy=remedy)
    train_rows, dev_rows = train.in_memory(), dev.in_memory()
    if train_rows is None or dev_rows is None:
        remedy = "hold all rows in memory with --window 0, or leave the method out"
        raise SettingError(
            "an estimator must see all training rows at once", value=key.method.name, remedy=remedy
        )
    started = time.perf_counter()
    fitted = estimator.fit(train_rows, dev_rows, schema=schema, seed=key.seed)
    fit_seconds, started = time.perf_counter() - started, time.perf_counter()
    metrics = dev_metrics(dev_rows.label_B.cpu().numpy(), fitted.logits(dev_rows))
    history = History(epoch=1, rows=len(train), loss_sum=fitted.loss, loss_rows=1, is_done=True)
    history.add_evaluation(epoch=1.0, step=fitted.steps, dev=metrics)
    history.add_score(selection_score(metrics))
    history.seconds = {"train": fit_seconds, "dev": time.perf_counter() - started}
    return _Trained(
        fit=Fit(history=history, dev=metrics, steps=fitted.steps, notes=dict(fitted.notes), resumed=0),
        parameters=Parameters(embedding=0, dense=fitted.num_parameters, per_domain=0),
        score=lambda data: {Column.SCORE: fitted.logits(data)},
        inspect=lambda _data: None,
    )
