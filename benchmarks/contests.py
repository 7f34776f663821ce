"""What is measured: contests, whose cases take turns within one run, and the lines that the report draws from each.

A case says which library runs it and with what. A line compares two cases round by round, or holds one case against a
limit; a line with a target is a goal of the project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

ROWS = 1_000_000
PREPARE_ROWS = 1_500_000
TWIN_ROWS = 10_910_174
DATA: dict[str, dict[str, int]] = {
    "300": {},
    "10": {"num_domains": 10},
    "5000": {"num_domains": 5_000},
    "2m": {"embedding_rows": 2_000_000},
}
"""Settings of the made-up rows, by name: 300 domains and 200,808 ids, or one of the two changed."""
BATCHES = (256, 4096)
METHODS = ("plain", "adasparse", "star", "apg", "maml")
DOMAIN_PRUNER = "adasparse[pruner_input=domain]"
MIXED_STAR = "star[batching=mixed]"
OURS, TEMPLATE = "ctrbench", "FuxiCTR, its template"
PEERS = {"FuxiCTR": "fuxictr", "DeepCTR-Torch": "deepctr", "torch-rechub": "rechub"}
SWR = "Scenario-Wise-Rec"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One contestant: who runs it (a worker, or `command`), and what it needs to know."""

    name: str
    library: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure a round: rows a second of a case over another's, or one case's seconds or peak memory."""

    work: str
    case: str
    other: str | None = None
    unit: Literal["×", "s", "GB", "× of parameters"] = "×"
    target: float | None = None
    is_at_most: bool = False
    """The target is a limit; of two cases it is then the slowdown, the other's speed over the case's."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Cases that take turns, and the lines drawn from them."""

    name: str
    cases: tuple[Case, ...]
    lines: tuple[Line, ...]
    is_same_size: bool = False
    """Whether all cases must have as many parameters as the first, or say why not."""
    max_rounds: int = 1_000
    is_one_thread: bool = False
    """Whether a contestant has one thread, as `ctrbench run` gives each of the runs that it makes side by side."""


def _ours(name: str, method: str, backbone: str, batch: int, data: str) -> Case:
    made = {"kind": "steps", "method": method, "backbone": backbone, "batch": batch, "data": data}
    return Case(name=name, library="ours", settings=made)


def _peer(name: str, library: str, model: str, batch: int, data: str = "300") -> Case:
    return Case(name=name, library=library, settings={"model": model, "batch": batch, "data": data})


def _versus(
    name: str, work: str, ours: Case, peers: tuple[Case, ...], target: float | None = None
) -> Contest:
    """Ours against peers of the same size; the target is that against the first."""
    lines = (
        Line(
            work=f"{work}, against {peer.name}", case=OURS, other=peer.name, target=None if place else target
        )
        for place, peer in enumerate(peers)
    )
    return Contest(name=name, cases=(ours, *peers), lines=tuple(lines), is_same_size=True)


def _backbones(name: str, work: str, model: str, batch: int, target: float, data: str = "300") -> Contest:
    ours = _ours(OURS, "plain", f"{model}[activation=relu]", batch, data)
    peers = tuple(_peer(peer, library, model, batch, data) for peer, library in PEERS.items())
    return _versus(name, f"plain {work}, batch {batch}", ours, peers, target)


def _one_thread(contest: Contest) -> Contest:
    """The same with one thread each, against the first peer, without a goal."""
    line = contest.lines[0]
    return replace(
        contest,
        name=f"one-thread-{contest.name}",
        cases=tuple(case for case in contest.cases if case.name in (line.case, line.other)),
        lines=(replace(line, work=f"{line.work}, one thread each", target=None),),
        is_one_thread=True,
    )


def _apg(batch: int, target: float | None) -> Contest:
    ours = _ours(OURS, "apg", "dcnv2[activation=relu]", batch, "300")
    same, template = (
        _peer("FuxiCTR", "fuxictr", "apg", batch),
        _peer(TEMPLATE, "fuxictr", "apg-template", batch),
    )
    return _versus(f"apg-{batch}", f"APG on DCNv2, batch {batch}", ours, (same, template), target)


def _methods(
    name: str, data: str, batch: int, targets: Mapping[str, float | None], swr: str | None = None
) -> Contest:
    """Methods against plain; `swr` also against Scenario-Wise-Rec's."""
    cases = [_ours(method, method, "dnn", batch, data) for method in ("plain", *targets)]
    where = f"on DNN, {int(data):,} domains, batch {batch}"
    lines = [
        Line(work=f"{method} {where}, against plain", case=method, other="plain", target=target)
        for method, target in targets.items()
    ]
    if swr:
        cases.append(_peer(SWR, "swr", swr, batch))
        lines.append(Line(work=f"{swr} {where}, against {SWR}", case=swr, other=SWR))
    if data == "5000":
        work = f"peak memory of star {where}, over weights and moments"
        lines.append(Line(work=work, case="star", unit="× of parameters"))
    return Contest(name=f"{name}-{batch}", cases=tuple(cases), lines=tuple(lines), is_one_thread=True)


def _domains(method: str, batch: int) -> Contest:
    cases = tuple(_ours(f"{data} domains", method, "dnn", batch, data) for data in ("10", "300"))
    work = f"{method} on DNN, batch {batch}, slowdown from 10 to 300 domains"
    line = Line(work=work, case=cases[1].name, other=cases[0].name, target=1.5, is_at_most=True)
    return Contest(name=f"domains-{method}-{batch}", cases=cases, lines=(line,), is_one_thread=True)


def _epoch(batch: int) -> Contest:
    cases = (
        Case(name=name, library="ours", settings={"kind": "epoch", "source": name, "batch": batch})
        for name in ("shards", "memory")
    )
    work = f"an epoch of plain DNN from the shards, batch {batch}, against the same from memory"
    line = Line(work=work, case="shards", other="memory", target=0.95)
    return Contest(name=f"epoch-{batch}", cases=tuple(cases), lines=(line,), is_one_thread=True)


def _metrics(name: str, rows: int, target: float) -> Contest:
    case = Case(name=OURS, library="ours", settings={"kind": "metrics", "rows": rows})
    work = f"every metric of {rows:,} rows in 5,000 domains"
    return Contest(name=name, cases=(case,), lines=(_limit(work, OURS, "s", target),))


def _limit(work: str, case: str, unit: Literal["s", "GB"], target: float) -> Line:
    return Line(work=work, case=case, unit=unit, target=target, is_at_most=True)


def _command(name: str) -> Case:
    return Case(name=name, library="command")


_PREPARE = f"prepare {PREPARE_ROWS:,} rows of CSV"
_TWIN = f"prepare the IAAC twin, {TWIN_ROWS:,} raw rows"
_CLI = ("ctrbench --help", "ctrbench list methods")

_PEERS = (
    _backbones("dnn-256", "DNN", "dnn", 256, 6),
    _backbones("dnn-4096", "DNN", "dnn", 4096, 2),
    _backbones("dnn-2m-256", "DNN, 2 million embedding rows", "dnn", 256, 30, data="2m"),
    _backbones("dcnv2-256", "DCNv2", "dcnv2", 256, 4),
    _backbones("dcnv2-4096", "DCNv2", "dcnv2", 4096, 2),
    _apg(256, 4),
    _apg(4096, None),
)

CONTESTS: tuple[Contest, ...] = (
    *_PEERS,
    *(_one_thread(contest) for contest in _PEERS),
    *(
        _methods("adasparse", "300", batch, {"adasparse": 0.5, DOMAIN_PRUNER: 0.75}, "adasparse")
        for batch in BATCHES
    ),
    *(
        # At 4096 rows, its STAR needs memory by the number of domains.
        _methods("star", "300", batch, {"star": 0.5, MIXED_STAR: None}, "star" if batch == 256 else None)
        for batch in BATCHES
    ),
    *(_methods("star-5000", "5000", batch, {"star": 0.3}) for batch in BATCHES),
    *(_domains(method, batch) for batch in BATCHES for method in METHODS),
    *(_epoch(batch) for batch in BATCHES),
    Contest(
        name="prepare",
        cases=(_command(OURS), _command("FuxiCTR")),
        lines=(
            Line(work=f"{_PREPARE}, against FuxiCTR", case=OURS, other="FuxiCTR", target=8),
            _limit("peak memory of preparing the CSV", OURS, "GB", 1),
        ),
    ),
    Contest(
        name="twin",
        cases=(_command(OURS),),
        lines=(_limit(_TWIN, OURS, "s", 240), _limit("peak memory of preparing the twin", OURS, "GB", 3)),
        max_rounds=1,
    ),
    _metrics("metrics-1m", 1_000_000, 0.5),
    _metrics("metrics-10m", 10_000_000, 6),
    Contest(
        name="cli",
        cases=tuple(_command(name) for name in _CLI),
        lines=tuple(_limit(f"`{name}`", name, "s", 0.5) for name in _CLI),
    ),
)
