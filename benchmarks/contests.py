"""Contests, whose cases take turns within one run, and the ratios that docs/speed.md shows of each.

A case names the library that runs it, and its settings. A line compares two cases round by round. Seconds and memory of
contests without lines are in the record only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

ROWS = 1_000_000
PREPARE_ROWS = 1_500_000
TWIN_ROWS = 10_910_174
DATA: dict[str, dict[str, int]] = {
    "300": {},
    "10": {"num_domains": 10},
    "5000": {"num_domains": 5_000},
    "2m": {"embedding_rows": 2_000_000},
}
"""Settings of the synthetic rows, by name: 300 domains and 200,808 ids, or one of the two changed."""
BATCHES = (256, 4096)
METHODS = ("plain", "adasparse", "star", "apg", "maml")
DOMAIN_PRUNER = "adasparse[pruner_input=domain]"
MIXED_STAR = "star[batching=mixed]"
OURS, TEMPLATE = "ctrbench", "FuxiCTR, its template"
PEERS = {"FuxiCTR": "fuxictr", "DeepCTR-Torch": "deepctr", "torch-rechub": "rechub"}
SWR = "Scenario-Wise-Rec"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One contestant: the library that runs it (a worker, or `command`), and its settings."""

    name: str
    library: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One ratio per round: rows per second of a case over those of another, or its peak memory over its parameters."""

    work: str
    case: str
    other: str | None = None
    """The case compared with; None for peak memory over weights and moments."""
    is_slowdown: bool = False
    """Whether the ratio is inverted: the other's speed over the case's."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Cases that take turns, and the ratios shown."""

    name: str
    cases: tuple[Case, ...]
    lines: tuple[Line, ...] = ()
    is_same_size: bool = False
    """Whether all cases must have as many parameters as the first, or a note that explains the difference."""
    max_rounds: int = 1_000
    is_one_thread: bool = False
    """Whether each contestant has one thread, as `ctrbench run` gives each of its parallel runs."""


def _ours(name: str, method: str, backbone: str, batch: int, data: str) -> Case:
    settings = {"kind": "steps", "method": method, "backbone": backbone, "batch": batch, "data": data}
    return Case(name=name, library="ours", settings=settings)


def _peer(name: str, library: str, model: str, batch: int, data: str = "300") -> Case:
    return Case(name=name, library=library, settings={"model": model, "batch": batch, "data": data})


def _versus(name: str, work: str, ours: Case, peers: tuple[Case, ...]) -> Contest:
    """Return a contest of our case with peers of the same size."""
    lines = (Line(work=f"{work}, against {peer.name}", case=OURS, other=peer.name) for peer in peers)
    return Contest(name=name, cases=(ours, *peers), lines=tuple(lines), is_same_size=True)


def _backbones(name: str, work: str, model: str, batch: int, data: str = "300") -> Contest:
    ours = _ours(OURS, "plain", f"{model}[activation=relu]", batch, data)
    peers = tuple(_peer(peer, library, model, batch, data) for peer, library in PEERS.items())
    return _versus(name, f"plain {work}, batch {batch}", ours, peers)


def _one_thread(contest: Contest) -> Contest:
    """Return the same contest with one thread each, against the first peer."""
    line = contest.lines[0]
    return replace(
        contest,
        name=f"one-thread-{contest.name}",
        cases=tuple(case for case in contest.cases if case.name in (line.case, line.other)),
        lines=(replace(line, work=f"{line.work}, one thread each"),),
        is_one_thread=True,
    )


def _apg(batch: int) -> Contest:
    ours = _ours(OURS, "apg", "dcnv2[activation=relu]", batch, "300")
    same, template = (
        _peer("FuxiCTR", "fuxictr", "apg", batch),
        _peer(TEMPLATE, "fuxictr", "apg-template", batch),
    )
    return _versus(f"apg-{batch}", f"APG on DCNv2, batch {batch}", ours, (same, template))


def _methods(name: str, data: str, batch: int, methods: Sequence[str], swr: str | None = None) -> Contest:
    """Return a contest of methods with plain; of `swr` also with the method of Scenario-Wise-Rec."""
    cases = [_ours(method, method, "dnn", batch, data) for method in ("plain", *methods)]
    where = f"on DNN, {int(data):,} domains, batch {batch}"
    lines = [Line(work=f"{method} {where}, against plain", case=method, other="plain") for method in methods]
    if swr:
        cases.append(_peer(SWR, "swr", swr, batch))
        lines.append(Line(work=f"{swr} {where}, against {SWR}", case=swr, other=SWR))
    if data == "5000":
        work = f"peak memory of star {where}, over weights and moments"
        lines.append(Line(work=work, case="star"))
    return Contest(name=f"{name}-{batch}", cases=tuple(cases), lines=tuple(lines), is_one_thread=True)


def _domains(method: str, batch: int) -> Contest:
    cases = tuple(_ours(f"{data} domains", method, "dnn", batch, data) for data in ("10", "300"))
    work = f"{method} on DNN, batch {batch}, slowdown from 10 to 300 domains"
    line = Line(work=work, case=cases[1].name, other=cases[0].name, is_slowdown=True)
    return Contest(name=f"domains-{method}-{batch}", cases=cases, lines=(line,), is_one_thread=True)


def _epoch(batch: int) -> Contest:
    cases = (
        Case(name=name, library="ours", settings={"kind": "epoch", "source": name, "batch": batch})
        for name in ("shards", "memory")
    )
    work = f"an epoch of plain DNN from the shards, batch {batch}, against the same from memory"
    line = Line(work=work, case="shards", other="memory")
    return Contest(name=f"epoch-{batch}", cases=tuple(cases), lines=(line,), is_one_thread=True)


def _metrics(name: str, rows: int) -> Contest:
    case = Case(name=OURS, library="ours", settings={"kind": "metrics", "rows": rows})
    return Contest(name=name, cases=(case,))


def _command(name: str) -> Case:
    return Case(name=name, library="command")


_PREPARE = f"prepare {PREPARE_ROWS:,} rows of CSV"
_CLI = ("ctrbench --help", "ctrbench list methods")

_PEERS = (
    _backbones("dnn-256", "DNN", "dnn", 256),
    _backbones("dnn-4096", "DNN", "dnn", 4096),
    _backbones("dnn-2m-256", "DNN, 2 million embedding rows", "dnn", 256, data="2m"),
    _backbones("dcnv2-256", "DCNv2", "dcnv2", 256),
    _backbones("dcnv2-4096", "DCNv2", "dcnv2", 4096),
    _apg(256),
    _apg(4096),
)

CONTESTS: tuple[Contest, ...] = (
    *_PEERS,
    *(_one_thread(contest) for contest in _PEERS),
    *(_methods("adasparse", "300", batch, ("adasparse", DOMAIN_PRUNER), "adasparse") for batch in BATCHES),
    *(
        # Its STAR needs memory in proportion to the number of domains, too much at 4096 rows.
        _methods("star", "300", batch, ("star", MIXED_STAR), "star" if batch == 256 else None)
        for batch in BATCHES
    ),
    *(_methods("star-5000", "5000", batch, ("star",)) for batch in BATCHES),
    *(_domains(method, batch) for batch in BATCHES for method in METHODS),
    *(_epoch(batch) for batch in BATCHES),
    Contest(
        name="prepare",
        cases=(_command(OURS), _command("FuxiCTR")),
        lines=(Line(work=f"{_PREPARE}, against FuxiCTR", case=OURS, other="FuxiCTR"),),
    ),
    Contest(name="twin", cases=(_command(OURS),), max_rounds=1),
    _metrics("metrics-1m", 1_000_000),
    _metrics("metrics-10m", 10_000_000),
    Contest(name="cli", cases=tuple(_command(name) for name in _CLI)),
)
