"""One run from its key to its record: load, build, train, read the test split once, measure, write.

Every arrow is a file or a frozen value: shards in, checkpoints on the way, predictions and a record out.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch

import ctrbench
from ctrbench.data.batches import RowSource, SplitData, load_split
from ctrbench.data.fetch import sha256_of
from ctrbench.data.shards import Prepared, open_prepared
from ctrbench.data.stream import StreamedSplit
from ctrbench.errors import SettingError, StoreError
from ctrbench.eval.external import DomainTable, Measures, measure_file, measure_frame
from ctrbench.eval.metrics import GroupMetrics
from ctrbench.names import Column, DomainColumn, Split
from ctrbench.nn.exchange import Workers
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import FieldShape, Schema
from ctrbench.plugins.base import Estimator, Method
from ctrbench.runs.grid import Run
from ctrbench.runs.record import (
    BinMetrics,
    Code,
    DomainMetrics,
    Epoch,
    Measured,
    Parameters,
    Result,
    RunKey,
    RunRecord,
)
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import Place, remove, replacing, write_text
from ctrbench.train.config import TrainConfig
from ctrbench.train.loop import (
    CHECKPOINT_SECONDS,
    STREAMED,
    Fit,
    History,
    Tick,
    Trainer,
    dev_metrics,
    score_piece,
)

if TYPE_CHECKING:
    from ctrbench.plugins.base import Backbone

NUM_BINS = 5


def execute(
    run: Run,
    store: RunStore,
    *,
    report: Callable[[Tick], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    workers: Workers | None = None,
) -> RunRecord:
    """Make one run and write its record; a failure of the run is a record too.

    A finished record stays as it is: the run is then made again for its predictions and inspection alone. With
    `workers`, this is the first of several processes that make the run together (`assist` is what the others do).
    """
    clock = _Clock()
    result, error, resumed = None, None, 0
    try:
        if run.unsupported is None:
            result, resumed = _run(run, store, clock, report, checkpoint_seconds, workers)
    except Exception as problem:  # noqa: BLE001  # whatever a plug-in raises ends this run, not the others
        error = f"{type(problem).__name__}: {problem}"
        _keep_traceback(store.folder(run.key))
    record = RunRecord(
        run=run.key.run,
        digest=run.key.digest,
        key=run.key,
        status="finished" if result else "failed" if error else "unsupported",
        error=error or run.unsupported,
        code=_code(run),
        measured=clock.measured(run.key, resumed, workers=1 if workers is None else workers.size),
        result=result,
    )
    keep(record, store)
    if result is not None:
        remove(store.folder(run.key) / "checkpoint.pt")
    return record


def keep(record: RunRecord, store: RunStore) -> None:
    """Write the record, unless a finished one is there, perhaps of another machine that has just made the same run."""
    known = store.find(record.key)
    if known is not None and known.status == "finished":
        return
    try:
        store.write(record)
    except StoreError:
        known = store.find(record.key)
        if known is None or known.status != "finished":
            raise


def _keep_traceback(folder: Place) -> None:
    write_text(folder / "traceback.txt", traceback.format_exc())


def failed_record(run: Run, error: str) -> RunRecord:
    """Return the record of a run that could not say itself why it failed."""
    return RunRecord(
        run=run.key.run,
        digest=run.key.digest,
        key=run.key,
        status="failed",
        error=error,
        code=_code(run),
        measured=_Clock().measured(run.key, 0),
    )


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.rows_per_second: float | None = None
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def take(self, fit: Fit) -> None:
        """Take over training's own account, which survives an interruption."""
        self.seconds |= fit.history.seconds
        if self.seconds["train"] > 0:
            self.rows_per_second = round(fit.history.rows / self.seconds["train"], 1)
        self._last = time.perf_counter()

    def measured(self, key: RunKey, resumed: int, *, workers: int = 1) -> Measured:
        """Return what was measured so far, memory by this process."""
        return Measured(
            started=self.started,
            seconds={name: round(value, 3) for name, value in self.seconds.items()},
            rows_per_second=self.rows_per_second,
            peak_memory_bytes=peak_memory(),
            machine=machine(key.train["threads"], key.train["device"])
            | ({"workers": workers} if workers > 1 else {}),
            resumed=resumed,
        )


def _run(
    run: Run,
    store: RunStore,
    clock: _Clock,
    report: Callable[[Tick], None] | None,
    checkpoint_seconds: float,
    workers: Workers | None,
) -> tuple[Result, int]:
    reset_peak_memory()
    key, config = run.key, TrainConfig.model_validate(run.key.train)
    config.set_up_process()
    data = _Data(prepared=_open(key, store.home), key=key, config=config, device=_device(config, workers))
    trained = _train(run, store, data, clock, report, checkpoint_seconds, workers)
    clock.take(trained.fit)
    test = data.rows(Split.TEST)
    table = domain_table(data.prepared, key)
    measures, sha256 = write_predictions(test, trained.score, table, store.predictions_file(key))
    write_inspection(trained.inspect(test), sha256, store.inspection_file(key))
    result = make_result(measures, table, trained.fit, trained.parameters, sha256)
    clock.lap("test")
    return result, trained.fit.resumed


def assist(run: Run, store: RunStore, workers: Workers) -> None:
    """Do the part of a worker of a run that is not the first: train, score, and write nothing."""
    key, config = run.key, TrainConfig.model_validate(run.key.train)
    config.set_up_process()
    data = _Data(prepared=_open(key, store.home), key=key, config=config, device=_device(config, workers))
    trained = _train(run, store, data, _Clock(), None, CHECKPOINT_SECONDS, workers)
    for piece in data.rows(Split.TEST).pieces():
        trained.score(piece)


def _device(config: TrainConfig, workers: Workers | None) -> torch.device:
    return device_of(config) if workers is None else workers.device


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The data of a run."""

    prepared: Prepared
    key: RunKey
    config: TrainConfig
    device: torch.device

    def rows(self, split: Split) -> RowSource:
        """Return a split: held whole, or streamed where the configuration has a window."""
        if self.config.window is None:
            return load(self.prepared, split, self.key).to(self.device)
        return StreamedSplit(
            prepared=self.prepared,
            split=split,
            domain_set=self.key.domain_set,
            indicator=self.key.indicator,
            window=self.config.window,
            device=self.device,
        )


def _train(
    run: Run,
    store: RunStore,
    data: _Data,
    clock: _Clock,
    report: Callable[[Tick], None] | None,
    checkpoint_seconds: float,
    workers: Workers | None,
) -> _Trained:
    key, config, (method, backbone) = run.key, data.config, _plugins(run)
    train, dev = data.rows(Split.TRAIN), data.rows(Split.DEV)
    schema = make_schema(data.prepared, key)
    if isinstance(method, Estimator):
        clock.lap("load")
        return _estimate(method, train, dev, schema, key, workers)
    plan = method.apply(backbone.full_plan())
    model = CTRModel(plan, schema, seed=key.seed, precision=config.precision).to(data.device)
    torch.manual_seed(key.seed)
    clock.lap("load")
    learner = method.learner()
    trainer = Trainer(
        model=model, learner=learner, train=train, dev=dev, config=config, seed=key.seed, workers=workers
    )
    fit = trainer.fit(
        checkpoint=store.folder(key) / "checkpoint.pt", report=report, checkpoint_seconds=checkpoint_seconds
    )
    return _Trained(
        fit=fit,
        parameters=Parameters(**model.num_parameters()),
        score=partial(score_piece, model, learner, workers=workers),
        inspect=partial(_inspect, method, model),
    )


def _inspect(method: Method, model: CTRModel, test: RowSource) -> dict[str, np.ndarray]:
    """Return what the method shows of the model; of rows that are streamed, by the latest of them."""
    if type(method).inspect is Method.inspect:
        return {}
    return method.inspect(model, test.latest())


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What is left of training once it is over."""

    fit: Fit
    parameters: Parameters
    score: Callable[[SplitData], dict[str, np.ndarray]]
    inspect: Callable[[RowSource], dict[str, np.ndarray]]


def _estimate(
    estimator: Estimator,
    train: RowSource,
    dev: RowSource,
    schema: Schema,
    key: RunKey,
    workers: Workers | None,
) -> _Trained:
    """Fit an estimator; its account is that of one pass over the training rows."""
    if workers is not None:
        remedy = "leave out --workers"
        raise SettingError("an estimator is fitted by one process", value=key.method.name, remedy=remedy)
    if not isinstance(train, SplitData) or not isinstance(dev, SplitData):
        remedy = "hold all rows in memory with --window 0, or leave the method out"
        raise SettingError(
            "an estimator sees all training rows at once", value=key.method.name, remedy=remedy
        )
    started = time.perf_counter()
    fitted = estimator.fit(train, dev, schema=schema, seed=key.seed)
    fit_seconds, started = time.perf_counter() - started, time.perf_counter()
    metrics = dev_metrics(dev.label_B.cpu().numpy(), fitted.logits(dev))
    epoch = {"epoch": 1, "step": fitted.steps, "loss": fitted.loss, "dev": metrics, "logs": {}}
    history = History(epoch=1, best_epoch=1, rows=len(train), epochs=[epoch], is_done=True)
    history.seconds = {"train": fit_seconds, "dev": time.perf_counter() - started}
    return _Trained(
        fit=Fit(history=history, steps=fitted.steps, notes=dict(fitted.notes), resumed=0),
        parameters=Parameters(embedding=0, dense=fitted.num_parameters, per_domain=0),
        score=lambda data: {Column.SCORE: fitted.logits(data)},
        inspect=lambda _data: {},
    )


def _plugins(run: Run) -> tuple[Method, Backbone]:
    method: Method = run.method.load().model_validate(run.key.method.settings)  # type: ignore[assignment]
    backbone: Backbone = run.backbone.load().model_validate(run.key.backbone.settings)  # type: ignore[assignment]
    return method, backbone


def _open(key: RunKey, home: Place) -> Prepared:
    prepared = open_prepared(key.dataset, home)
    if prepared.manifest.content_digest != key.data_digest:
        raise SettingError("the prepared data changed since the run was planned", value=key.dataset)
    return prepared


@lru_cache(maxsize=3)
def _load(folder: Path, digest: str, split: Split, domain_set: str, indicator: str) -> SplitData:
    prepared = open_prepared(folder.name, folder.parent.parent)
    return load_split(prepared, split, domain_set=domain_set, indicator=indicator)


def load(prepared: Prepared, split: Split, key: RunKey) -> SplitData:
    """Load a split for a run; a process that makes several runs on the same data reads it once."""
    digest = prepared.manifest.content_digest
    return _load(prepared.folder, digest, split, key.domain_set, key.indicator)


def make_schema(prepared: Prepared, key: RunKey) -> Schema:
    """Describe the data to a model, from what was counted of the training rows when they were prepared."""
    manifest = prepared.manifest
    train = manifest.splits[Split.TRAIN]
    if key.indicator == "all":
        known = prepared.domain_table(key.domain_set).sort(Column.DOMAIN)
        rows = known[DomainColumn.ROWS.format(split=Split.TRAIN)].to_list()[1:]
    else:
        rows = prepared.vocabulary(key.indicator).sort("id")["rows"].to_list()
    rate = train.positives / train.rows
    return Schema(
        fields=field_shapes(prepared),
        embedding_size=key.train["embedding_size"],
        domain_features=key.domain_features,
        num_domains=manifest.domain_sets[key.domain_set].num_domains,
        indicator_rows=(train.rows - sum(rows), *rows),
        base_rate=min(max(rate, 1e-6), 1.0 - 1e-6),
    )


def field_shapes(prepared: Prepared) -> tuple[FieldShape, ...]:
    """Describe the fields to a model."""
    manifest = prepared.manifest
    return tuple(
        FieldShape(
            name=field.name,
            kind=field.kind,
            role=field.role,
            size=field.size,
            target=manifest.card.field(field.name).target,
        )
        for field in manifest.fields
    )


def predictions_frame(data: SplitData, scores: dict[str, np.ndarray]) -> pl.DataFrame:
    """Return predictions: row, domain, label, scores, and user and what is known of the truth, where they are known."""
    columns: dict[str, np.ndarray | None] = {
        Column.ROW: data.row,
        Column.DOMAIN: data.domain_B.cpu().numpy().astype(np.int32),
        Column.LABEL: data.label_B.cpu().numpy().astype(np.int8),
        **scores,
        Column.USER: data.user,
        Column.PROBABILITY: data.probability,
        Column.CEILING: data.ceiling,
    }
    return pl.DataFrame({name: values for name, values in columns.items() if values is not None})


def domain_table(prepared: Prepared, key: RunKey) -> DomainTable:
    """Return what metrics need to know of the domains."""
    table = prepared.domain_table(key.domain_set)
    rows_train = table[DomainColumn.ROWS.format(split=Split.TRAIN)]
    return DomainTable(
        domain=table[Column.DOMAIN].to_numpy(), rows_train=rows_train.to_numpy(), num_bins=NUM_BINS
    )


def write_predictions(
    data: RowSource, score: Callable[[SplitData], dict[str, np.ndarray]], table: DomainTable, file: Place
) -> tuple[Measures, str]:
    """Write the predictions of a split in one move, piece after piece; return their metrics and the file's sha256."""
    with replacing(file) as part:
        frames = (predictions_frame(piece, score(piece)) for piece in data.pieces())
        if isinstance(data, SplitData):
            frame = next(frames)
            frame.write_parquet(part, compression="zstd")
            return measure_frame(frame, table=table), sha256_of(part)
        _write_frames(frames, part)
        return measure_file(part, table=table, limits=STREAMED), sha256_of(part)


def _write_frames(frames: Iterator[pl.DataFrame], file: Path) -> None:
    first = next(frames).to_arrow()
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for frame in frames:
            writer.write_table(frame.to_arrow())


def write_inspection(arrays: dict[str, np.ndarray], sha256: str, file: Place) -> None:
    """Write what a method shows of its model in one move, if anything, with the digest of the model's predictions."""
    if arrays:
        with replacing(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, predictions=np.array(sha256), **arrays)  # type: ignore[arg-type]


def make_result(
    measures: Measures, table: DomainTable, fit: Fit, parameters: Parameters, sha256: str
) -> Result:
    """Put together what a record says."""
    best = fit.history.epochs[fit.history.best_epoch - 1]
    return Result(
        parameters=parameters,
        best_epoch=fit.history.best_epoch,
        steps=fit.steps,
        rows_seen=fit.history.rows,
        dev=best["dev"],
        test=measures.overall,
        variants=measures.variants,
        oracle=measures.oracle,
        domains=_domain_metrics(measures.domains, np.asarray(table.domain), np.asarray(table.rows_train)),
        bins=tuple(BinMetrics(**asdict(one)) for one in measures.bins),
        history=tuple(Epoch(**epoch) for epoch in fit.history.epochs),
        notes=fit.notes,
        predictions_sha256=sha256,
    )


def _domain_metrics(groups: GroupMetrics, domain: np.ndarray, rows_train: np.ndarray) -> DomainMetrics:
    """Return a line for every domain of the table; those without test rows shape the bins all the same."""
    place = np.searchsorted(domain, groups.group)

    def spread(values: np.ndarray, missing: float) -> np.ndarray:
        column = np.full(len(domain), missing, dtype=values.dtype)
        column[place] = values
        return column

    return DomainMetrics(
        domain=tuple(domain.tolist()),
        rows_train=tuple(rows_train.tolist()),
        rows=tuple(spread(groups.rows, 0).tolist()),
        positives=tuple(spread(groups.positives, 0).tolist()),
        auc=_optional(spread(groups.auc, np.nan)),
        logloss=_optional(spread(groups.logloss, np.nan)),
        pcoc=_optional(spread(groups.pcoc, np.nan)),
    )


def _optional(values: np.ndarray) -> tuple[float | None, ...]:
    """Undefined is None; eight digits say more than a domain's rows can."""
    return tuple(None if np.isnan(value) else float(f"{value:.8g}") for value in values.tolist())


def device_of(config: TrainConfig) -> torch.device:
    """Return the device that the configuration names, or say that it is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise SettingError("no CUDA device here", value="--device cuda", remedy="use --device cpu")
    return torch.device(config.device)


def _code(run: Run) -> Code:
    return Code(
        version=ctrbench.__version__,
        commit=commit(),
        method_sha256=run.method.sha256,
        backbone_sha256=run.backbone.sha256,
    )


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Return the commit of the checkout that the package runs from, `+` appended when it has changes."""
    folder = Path(ctrbench.__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(folder)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", str(folder)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if changes.strip() else head


def machine(threads: int, device: str) -> dict[str, str | int]:
    """Describe the machine as far as it moves speed or the last bits."""
    info: dict[str, str | int] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.system(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "threads": threads,
        "device": device,
    }
    if device == "cuda" and torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def reset_peak_memory() -> None:
    """Start the count of this process's peak memory anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
