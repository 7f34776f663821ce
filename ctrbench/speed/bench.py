"""What `ctrbench bench` does: every method × backbone × domain count × batch size, measured one after the other.

A pair that makes no sense, or a plug-in that fails, leaves a line with the reason; the others go on. Cases of the same
rows and the same batch size follow one another, so that methods can be compared although machines change their pace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import ctrbench
from ctrbench.data.prepared import open_prepared
from ctrbench.errors import SettingError
from ctrbench.names import Split
from ctrbench.plugins.registry import Selected, select
from ctrbench.runs.grid import make_grid
from ctrbench.runs.machine import commit, device_of, machine
from ctrbench.speed.bounds import Roofs, measure_roofs
from ctrbench.speed.measure import Figures, measure
from ctrbench.speed.training import SEED, Case
from ctrbench.speed.workload import DOMAINS, FIELD_SIZES, Workload, from_prepared, synthetic
from ctrbench.storage.files import write_text
from ctrbench.train.config import TrainConfig

if TYPE_CHECKING:
    from ctrbench.plugins.base import Backbone, Method

SCHEMA_VERSION = 1
ROWS = 200_000
"""Made-up rows, if not told otherwise: some epochs pass in a few seconds, and making them takes one."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be measured; `domains`, `rows` and `embedding_rows` shape the made-up rows, so not with a dataset."""

    methods: tuple[str, ...]
    """Selectors."""
    backbones: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    domains: tuple[int, ...] | None = None
    dataset: str | None = None
    """A prepared dataset, by the domains of its default set."""
    rows: int | None = None
    embedding_rows: int | None = None
    """Ids of all fields together."""
    seconds: float
    """Of steps timed for each case."""
    config: TrainConfig
    """Embedding size, optimiser, device and threads."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One case and what came of it: figures, or the reason why there are none."""

    method: str
    backbone: str
    data: str
    rows: int
    domains: int
    batch_size: int
    figures: Figures | None = None
    reason: str | None = None
    has_failed: bool = False
    """Whether the reason is an error, not a pair that the method does not support."""

    @property
    def label(self) -> str:
        """How the case is called on the screen."""
        return f"{self.method} × {self.backbone}, {self.domains:,} domains, batch {self.batch_size:,}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was measured, and on what machine."""

    started: str
    """UTC, ISO 8601."""
    seconds: float
    """Of steps timed for each case."""
    config: TrainConfig
    """`batch_size` is each line's own."""
    machine: dict[str, str | int]
    roofs: Roofs
    lines: tuple[Line, ...]


Started = Callable[[str, int, int], None]
"""Hears the name of the case that begins, its number and how many there are."""


def bench(request: Request, *, started: Started = lambda *_: None) -> Report:
    """Measure every case of a request; raises `SettingError` for a request that cannot be met, before any is."""
    began = datetime.now(UTC).isoformat(timespec="seconds")
    config, device = request.config, device_of(request.config)
    config.set_up_process()
    pairs = _pairs(request)
    workloads = _workloads(request)
    roofs = measure_roofs(device)
    return Report(
        started=began,
        seconds=request.seconds,
        config=config,
        machine=machine(config.threads, config.device),
        roofs=roofs,
        lines=tuple(_lines(request, pairs, workloads, roofs, device, started)),
    )


@dataclass(frozen=True, kw_only=True)
class _Pair:
    method: str
    backbone: str
    rewriter: Method
    base: Backbone


def _pairs(request: Request) -> list[_Pair]:
    methods = [(text, select("methods", text)) for text in request.methods]
    backbones = [(text, select("backbones", text)) for text in request.backbones]
    return [_pair(*method, *backbone) for backbone in backbones for method in methods]


def _pair(method: str, rewriter: Selected, backbone: str, base: Selected) -> _Pair:
    return _Pair(
        method=method,
        backbone=backbone,
        rewriter=rewriter.value,  # type: ignore[arg-type]
        base=base.value,  # type: ignore[arg-type]
    )


def _workloads(request: Request) -> Sequence[Callable[[], Workload]]:
    """Check the request's data and return what reads or makes the rows of each domain count."""
    return _made_up(request) if request.dataset is None else _of_dataset(request, request.dataset)


def _made_up(request: Request) -> Sequence[Callable[[], Workload]]:
    rows, counts = request.rows or ROWS, request.domains or (DOMAINS,)
    _check_rows(rows, request)
    least = max(counts) + 2 * len(FIELD_SIZES)
    if request.embedding_rows is not None and request.embedding_rows < least:
        rule = f"{len(FIELD_SIZES)} fields of two ids and the domains need {least:,} embedding rows"
        raise SettingError(rule, value=f"--embedding-rows {request.embedding_rows}")

    make = partial(
        synthetic,
        rows=rows,
        embedding_rows=request.embedding_rows,
        embedding_size=request.config.embedding_size,
    )
    return [partial(make, num_domains=count) for count in counts]


def _of_dataset(request: Request, dataset: str) -> Sequence[Callable[[], Workload]]:
    for option in ("domains", "rows", "embedding_rows"):
        if getattr(request, option) is not None:
            raise SettingError(
                f"--{option.replace('_', '-')} shapes the made-up rows, a prepared dataset has its own",
                value=f"--dataset {dataset}",
                remedy="leave one of the two out",
            )
    prepared = open_prepared(dataset)
    _check_rows(prepared.manifest.splits[Split.TRAIN].rows, request)
    # The domain set and the indicator that a run would have.
    key = make_grid(
        prepared, methods=request.methods, backbones=request.backbones, seeds=(SEED,),
        domain_set="default", indicator=None, config=request.config,
    )[0].key  # fmt: skip
    return [partial(from_prepared, prepared, key, embedding_size=request.config.embedding_size)]


def _check_rows(rows: int, request: Request) -> None:
    largest = max(request.batch_sizes)
    if rows < largest:
        rule = f"there are {rows:,} rows, too few for one batch"
        raise SettingError(
            rule, value=f"--batch-sizes {largest}", remedy="ask for smaller batches or more rows"
        )


def _lines(
    request: Request,
    pairs: Sequence[_Pair],
    workloads: Sequence[Callable[[], Workload]],
    roofs: Roofs,
    device: torch.device,
    started: Started,
) -> Iterator[Line]:
    number, total = 0, len(workloads) * len(request.batch_sizes) * len(pairs)
    for make in workloads:
        workload = make()
        workload = replace(workload, data=workload.data.to(device))
        for batch_size in request.batch_sizes:
            for pair in pairs:
                line = _line(pair, workload, batch_size)
                number += 1
                started(line.label, number, total)
                yield _measured(line, pair, workload, request, roofs)


def _line(pair: _Pair, workload: Workload, batch_size: int) -> Line:
    return Line(
        method=pair.method,
        backbone=pair.backbone,
        data=workload.name,
        rows=len(workload.data),
        domains=workload.schema.num_domains,
        batch_size=batch_size,
    )


def _measured(line: Line, pair: _Pair, workload: Workload, request: Request, roofs: Roofs) -> Line:
    """Return the line with figures or a reason; whatever a plug-in raises ends its own case, not the others."""
    try:
        reason = pair.rewriter.supports(pair.base.full_plan())
        if reason is not None:
            return replace(line, reason=reason)
        config = request.config.model_copy(update={"batch_size": line.batch_size})
        case = Case(method=pair.rewriter, backbone=pair.base, workload=workload, config=config)
        return replace(line, figures=measure(case, roofs, seconds=request.seconds))
    except Exception as problem:  # noqa: BLE001
        return replace(line, reason=f"{type(problem).__name__}: {problem}", has_failed=True)


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """Read `10,300`: numbers from 1 on, each once."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise SettingError(f"{option} takes numbers from 1 on, separated by commas", value=text)
    return tuple(dict.fromkeys(int(part) for part in parts))


def as_json(report: Report) -> dict[str, Any]:
    """Return all figures as plain values."""
    config = report.config.model_dump(mode="json", include={"embedding_size", "lr", "optimizer"})
    return {
        "schema_version": SCHEMA_VERSION,
        "code": {"version": ctrbench.__version__, "commit": commit()},
        "started": report.started,
        "machine": report.machine,
        "roofs": asdict(report.roofs),
        "settings": {"seconds": report.seconds, **config},
        "lines": [asdict(line) for line in report.lines],
    }


def write_report(report: Report, file: Path) -> Path:
    """Write all figures as JSON."""
    return write_text(file, json.dumps(as_json(report), indent=1, ensure_ascii=False) + "\n")
