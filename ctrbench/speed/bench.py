"""The training benchmark: every method × backbone × number of domains × batch size, measured one after the other.

An unsupported pair, or a plug-in that fails, gives a result with the reason, and the others continue. Cases with the
same rows and batch size are measured in succession, so that methods can be compared although a machine's speed drifts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import ctrbench
from ctrbench.data.prepared import open_prepared
from ctrbench.errors import SettingError, shorten
from ctrbench.failures import describe_failure, is_failure
from ctrbench.names import Split
from ctrbench.plugins.registry import Selected, select
from ctrbench.runs.grid import make_grid
from ctrbench.runs.machine import commit, device_of, machine
from ctrbench.speed.bounds import Roofs, measure_roofs
from ctrbench.speed.measure import Figures, measure
from ctrbench.speed.training import SEED, SpeedCase
from ctrbench.speed.workload import Workload, from_prepared, synthetic
from ctrbench.storage.files import write_text
from ctrbench.synthetic.click_log import DOMAINS, FIELD_SIZES
from ctrbench.train.config import TrainConfig

if TYPE_CHECKING:
    from ctrbench.plugins.base import Backbone, Method

SCHEMA_VERSION = 1
MAX_COUNT = 1 << 24
"""Largest number of domains and of rows per batch."""
ROWS = 200_000
"""Default number of synthetic rows: generating them takes a second, and an epoch little more."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Cases to measure; `domains`, `rows` and `embedding_rows` describe synthetic rows and exclude `dataset`."""

    methods: tuple[str, ...]
    """Selectors of methods."""
    backbones: tuple[str, ...]
    """Selectors of backbones."""
    batch_sizes: tuple[int, ...]
    domains: tuple[int, ...] | None = None
    """Numbers of domains of the synthetic rows."""
    dataset: str | None = None
    """Name of a prepared dataset, used with its default domain set."""
    rows: int | None = None
    embedding_rows: int | None = None
    """Number of ids of all fields together."""
    seconds: float
    """Duration of the timed steps per case."""
    config: TrainConfig
    """Embedding size, optimizer, device and threads."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One case with its figures, or the reason why there are none."""

    method: str
    backbone: str
    data: str
    rows: int
    domains: int
    batch_size: int
    figures: Figures | None = None
    reason: str | None = None
    has_failed: bool = False
    """Whether the reason is an error; False for a pair that the method does not support."""

    @property
    def label(self) -> str:
        """Description of the case for the terminal."""
        return f"{self.method} × {self.backbone}, {self.domains:,} domains, batch {self.batch_size:,}"


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """All results of a benchmark, with the machine on which they were measured."""

    started: str
    """UTC time, ISO 8601."""
    seconds: float
    """Duration of the timed steps per case."""
    config: TrainConfig
    """Settings of all cases; `batch_size` differs per case."""
    machine: dict[str, str | int]
    roofs: Roofs
    cases: tuple[CaseResult, ...]


Progress = Callable[[str, int, int], None]
"""Progress callback: receives the description of the next case, its number from 1, and the number of cases."""


def bench(request: Request, *, progress: Progress = lambda *_: None) -> BenchResult:
    """Measure every case of a request.

    Raises `SettingError` before the first measurement if any choice is unknown or impossible.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    config, device = request.config, device_of(request.config)
    config.set_up_process()
    pairs = _select_pairs(request)
    workloads = _workloads_of(request)
    roofs = measure_roofs(device)
    return BenchResult(
        started=started,
        seconds=request.seconds,
        config=config,
        machine=machine(config.threads, config.device),
        roofs=roofs,
        cases=tuple(_results(request, pairs, workloads, roofs, device, progress)),
    )


@dataclass(frozen=True, kw_only=True)
class _Pair:
    method: str
    backbone: str
    rewriter: Method
    base: Backbone


def _select_pairs(request: Request) -> list[_Pair]:
    methods = [(text, select("methods", text)) for text in request.methods]
    backbones = [(text, select("backbones", text)) for text in request.backbones]
    return [_make_pair(*method, *backbone) for backbone in backbones for method in methods]


def _make_pair(method: str, rewriter: Selected[Method], backbone: str, base: Selected[Backbone]) -> _Pair:
    return _Pair(method=method, backbone=backbone, rewriter=rewriter.value, base=base.value)


def _workloads_of(request: Request) -> Sequence[Callable[[], Workload]]:
    """Check the request's data and return one function per workload that reads or generates its rows."""
    return (
        _synthetic_workloads(request)
        if request.dataset is None
        else _prepared_workloads(request, request.dataset)
    )


def _synthetic_workloads(request: Request) -> Sequence[Callable[[], Workload]]:
    rows, counts = request.rows or ROWS, request.domains or (DOMAINS,)
    _check_rows(rows, request)
    required = max(counts) + 2 * len(FIELD_SIZES)
    if request.embedding_rows is not None and request.embedding_rows < required:
        rule = (
            f"{len(FIELD_SIZES)} fields of two ids each and the domains must have {required:,} embedding rows"
        )
        raise SettingError(rule, value=f"--embedding-rows {request.embedding_rows}")

    make = partial(
        synthetic,
        rows=rows,
        embedding_rows=request.embedding_rows,
        embedding_size=request.config.embedding_size,
    )
    return [partial(make, num_domains=count) for count in counts]


def _prepared_workloads(request: Request, dataset: str) -> Sequence[Callable[[], Workload]]:
    for option in ("domains", "rows", "embedding_rows"):
        if getattr(request, option) is not None:
            raise SettingError(
                f"--{option.replace('_', '-')} must not be used with --dataset",
                value=f"--dataset {dataset}",
                remedy="omit one of the two options",
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
        rule = f"a batch must not exceed the {rows:,} rows of the data"
        raise SettingError(
            rule, value=f"--batch-sizes {largest}", remedy="choose smaller batches or more rows"
        )


def _results(
    request: Request,
    pairs: Sequence[_Pair],
    workloads: Sequence[Callable[[], Workload]],
    roofs: Roofs,
    device: torch.device,
    progress: Progress,
) -> Iterator[CaseResult]:
    number, total = 0, len(workloads) * len(request.batch_sizes) * len(pairs)
    for make in workloads:
        workload = make()
        workload = replace(workload, data=workload.data.to(device))
        for batch_size in request.batch_sizes:
            for pair in pairs:
                case = _empty_result(pair, workload, batch_size)
                number += 1
                progress(case.label, number, total)
                yield _measure_case(case, pair, workload, request, roofs)


def _empty_result(pair: _Pair, workload: Workload, batch_size: int) -> CaseResult:
    return CaseResult(
        method=pair.method,
        backbone=pair.backbone,
        data=workload.name,
        rows=len(workload.data),
        domains=workload.schema.num_domains,
        batch_size=batch_size,
    )


def _measure_case(
    result: CaseResult, pair: _Pair, workload: Workload, request: Request, roofs: Roofs
) -> CaseResult:
    """Return the result with figures or a reason; an exception of a plug-in ends only its own case."""
    try:
        reason = pair.rewriter.unsupported_reason(pair.base.full_plan())
        if reason is not None:
            return replace(result, reason=reason)
        config = request.config.model_copy(update={"batch_size": result.batch_size})
        case = SpeedCase(method=pair.rewriter, backbone=pair.base, workload=workload, config=config)
        return replace(result, figures=measure(case, roofs, seconds=request.seconds))
    except BaseException as problem:
        if not is_failure(problem):
            raise
        return replace(result, reason=describe_failure(problem), has_failed=True)


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """Parse numbers from 1 to `MAX_COUNT` separated by commas, such as `10,300`, and drop repeated ones."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(re.fullmatch(r"[0-9]{1,8}", part) for part in parts):
        raise _count_error(option, text)
    counts = tuple(dict.fromkeys(map(int, parts)))
    if not all(1 <= count <= MAX_COUNT for count in counts):
        raise _count_error(option, text)
    return counts


def _count_error(option: str, text: str) -> SettingError:
    rule = f"{option} must be numbers from 1 to {MAX_COUNT:,}, separated by commas"
    return SettingError(rule, value=shorten(text))


def as_json(result: BenchResult) -> dict[str, Any]:
    """Return all figures as values for JSON."""
    config = result.config.model_dump(mode="json", include={"embedding_size", "lr", "optimizer"})
    return {
        "schema_version": SCHEMA_VERSION,
        "code": {"version": ctrbench.__version__, "commit": commit()},
        "started": result.started,
        "machine": result.machine,
        "roofs": asdict(result.roofs),
        "settings": {"seconds": result.seconds, **config},
        "lines": [asdict(case) for case in result.cases],
    }


def write_json(result: BenchResult, file: Path) -> Path:
    """Write all figures to a JSON file and return the file."""
    return write_text(file, json.dumps(as_json(result), indent=1, ensure_ascii=False) + "\n")
