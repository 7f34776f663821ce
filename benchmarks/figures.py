"""From the recorded rounds to the Speed section: ratios, limits, tables. Knows no clock and runs nothing.

The record is one JSON file: `contests` by name, each with what it was measured under and its cases; a case has its
parameters and, one a round, `rows`, `seconds` and `peak_bytes`, or an `error` that says why there are none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from contests import CONTESTS, Line

START, END = "<!-- speed:start -->", "<!-- speed:end -->"
NEXT_SECTION = "\n## The protocol"
BYTES_PER_PARAMETER = 12
"""A float32 weight and Adam's two moments."""

Record = dict[str, Any]
Result = dict[str, Any]

HOW = """\
Contestants take turns within one run: in every round each trains for {seconds:g} s, after a warm-up before the first,
and the order moves on by one from round to round. Contests with peers have all threads; those of our own methods with
one another have one thread, which is what `ctrbench run` gives a run, two of which then share two cores. A figure is
the median of {rounds} rounds (one for the twin); a ratio is the median of the rounds' own ratios; smallest and
largest stand in brackets. Rows a second are those of training steps on 1,000,000 made-up rows (23 fields, 200,808
ids, 300 domains, all by power laws) with embedding 16, layers 128-64-32 and Adam at 1e-3 that moves every embedding
row at every step. Against peers all have ReLU, equal sizes, no dropout and no regulariser; the peers' batches are cut
beforehand, ours within the measured time. FuxiCTR's package holds layers and training step, not the models of its
repository: DNN and DCNv2 are put together from its layers, APG is loaded from its repository's two files, here a copy
made by hand without their comments, once set as ours is and once as its template says. DeepCTR-Torch and torch-rechub
run their own loops on batches in memory; torch-rechub's MLP always has batch normalisation. Commands count whole, the
interpreter's start included, and their memory is the peak of the largest process; memory of training counts from
after the rows are loaded. FuxiCTR encodes all rows of the CSV file as training rows."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, smallest and largest of the rounds."""

    middle: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of one value a round."""
    return Spread(middle=median(values), low=min(values), high=max(values))


def rates(result: Result) -> list[float]:
    """Return rows a second of each round."""
    return [rows / seconds for rows, seconds in zip(result["rows"], result["seconds"], strict=True)]


def values(line: Line, cases: dict[str, Result]) -> list[float]:
    """Return the line's figure of each round; that of two cases pairs what they did in the same round."""
    case = cases[line.case]
    if line.other is not None:
        pairs = zip(rates(case), rates(cases[line.other]), strict=True)
        return [theirs / ours if line.is_at_most else ours / theirs for ours, theirs in pairs]
    if line.unit == "s":
        return list(case["seconds"])
    scale = 1e9 if line.unit == "GB" else BYTES_PER_PARAMETER * case["parameters"]
    return [peak / scale for peak in case["peak_bytes"]]


def merge(old: Record, new: Record) -> Record:
    """Return the new record with the contests that only the old one has."""
    return {**new, "contests": {**old.get("contests", {}), **new["contests"]}}


def section(record: Record) -> str:
    """Return what stands between the markers."""
    measured = [contest["measured"] for contest in record["contests"].values()]
    most = max(measured, key=lambda one: one["rounds"])
    lines = [(one.name, line) for one in CONTESTS for line in one.lines]
    return "\n\n".join(
        (
            _about(measured),
            _table(("work", "goal", "reached", "ours", "compared with", "parameters"), record, lines, True),
            "Further lines, without a goal:",
            _table(("work", "reached", "ours", "compared with", "parameters"), record, lines, False),
            HOW.format(seconds=most["seconds"], rounds=most["rounds"]),
        )
    )


def insert(text: str, block: str) -> str:
    """Put the block between its markers; a text without them gets a section, ahead of the protocol."""
    marked = f"{START}\n{block}\n{END}"
    if START in text:
        before, _, rest = text.partition(START)
        return before + marked + rest.partition(END)[2]
    before, protocol, after = text.partition(NEXT_SECTION)
    if not protocol:
        raise ValueError(f"the Speed section stands ahead of {NEXT_SECTION.strip()!r}, which is not there")
    return f"{before}\n## Speed\n\n{marked}\n{protocol}{after}"


def _table(head: Sequence[str], record: Record, lines: Sequence[tuple[str, Line]], has_goals: bool) -> str:
    rows = [
        [line.work, *([_goal(line)] if has_goals else []), *_cells(line, record, contest)]
        for contest, line in lines
        if (line.target is not None) is has_goals
    ]
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _goal(line: Line) -> str:
    return f"{'≤' if line.is_at_most else '≥'} {_shown(line.target or 0.0, line)}"


def _cells(line: Line, record: Record, contest: str) -> list[str]:
    cases = record["contests"].get(contest, {}).get("cases", {})
    compared = [cases.get(name, {"error": "not measured"}) for name in (line.case, line.other) if name]
    errors = [one["error"] for one in compared if one.get("error")]
    if errors:
        return [f"– ({errors[0]})", "–", "–", "–"]
    found = spread(values(line, cases))
    text = _shown(found.middle, line)
    if found.low < found.high:
        text += f" [{_number(found.low)}–{_number(found.high)}]"
    speeds = [_speed(one) for one in compared] if line.other else ["–", "–"]
    counts = dict.fromkeys(f"{one['parameters']:,}" for one in compared if one.get("parameters"))
    return [f"{text}, missed" if _is_missed(line, found.middle) else text, *speeds, " / ".join(counts) or "–"]


def _is_missed(line: Line, value: float) -> bool:
    if line.target is None:
        return False
    return value > line.target if line.is_at_most else value < line.target


def _shown(value: float, line: Line) -> str:
    return f"{_number(value)}{'' if line.unit.startswith('×') else ' '}{line.unit}"


def _number(value: float) -> str:
    """Three digits, and never an exponent."""
    return f"{float(f'{value:.3g}'):,.15g}"


def _speed(result: Result) -> str:
    return f"{_number(spread(rates(result)).middle)} rows/s"


def _about(measured: Sequence[Result]) -> str:
    """Say on what, with what and when the contests were measured."""
    machines = dict.fromkeys(
        f"{one['machine']['cpu']}, {one['machine']['threads']} threads" for one in measured
    )
    versions = dict.fromkeys(f"{name} {found}" for one in measured for name, found in one["versions"].items())
    commits = dict.fromkeys(re.sub(r"^(\w{9})\w*", r"\1", one["commit"] or "no commit") for one in measured)
    days = sorted({one["date"][:10] for one in measured})
    return (
        f"Written by `make bench-peers`. {' and '.join(machines)}; {', '.join(versions)}; ctrbench at "
        f"{', '.join(commits)}; {' to '.join(dict.fromkeys((days[0], days[-1])))}."
    )
