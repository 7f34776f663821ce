"""From the record of all rounds to the tables of docs/speed.md; measures nothing.

The record is one JSON file: `contests` by name, each with its conditions (`measured`) and its cases. A case has its
parameters and, per round, `rows`, `seconds` and `peak_bytes`, or an `error` that explains why it has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from contests import CONTESTS, Line

START, END = "<!-- speed:start -->", "<!-- speed:end -->"
BYTES_PER_PARAMETER = 12
"""A float32 weight and Adam's two moments."""
COLUMNS = ("work", "ratio", "parameters")

Record = dict[str, Any]
Result = dict[str, Any]

HOW = """\
Contestants take turns within one run: in every round each trains for {seconds:g} s, after a warm-up before the first,
and the order is rotated from round to round. Contests with peers use all threads; contests between our own methods use
one thread, as `ctrbench run` gives each of its parallel runs. A ratio is the median of the ratios of {rounds} rounds,
with the smallest and the largest in brackets. Speed is training rows per second, on 1,000,000 synthetic rows (23
fields, 200,808 ids, 300 domains, all with power-law frequencies) with embedding size 16, layers 128-64-32 and Adam with
learning rate 1e-3 that updates every embedding row at every step. In contests with peers all have ReLU, equal sizes, no
dropout and no regularizer; the batches of peers are prepared in advance, ours within the measured time. The package of
FuxiCTR contains layers and a training step, not the models of its repository: DNN and DCNv2 are assembled from its
layers, APG is loaded from two files of its repository, once with our settings and once with those of its template.
DeepCTR-Torch and torch-rechub run their own loops on batches in memory; the MLP of torch-rechub always has batch
normalization. Commands are measured with the start of the interpreter; memory of training is measured from after the
rows are loaded. FuxiCTR encodes all rows of the CSV file as training rows."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Median, smallest and largest value of the rounds."""

    median: float
    low: float
    high: float


def range_of(values: Sequence[float]) -> Range:
    """Return the range of one value per round."""
    return Range(median=median(values), low=min(values), high=max(values))


def rates(result: Result) -> list[float]:
    """Return rows per second of each round."""
    return [rows / seconds for rows, seconds in zip(result["rows"], result["seconds"], strict=True)]


def ratios(line: Line, cases: dict[str, Result]) -> list[float]:
    """Return the ratio of each round; two cases are paired by round."""
    case = cases[line.case]
    if line.other is None:
        return [peak / (BYTES_PER_PARAMETER * case["parameters"]) for peak in case["peak_bytes"]]
    pairs = zip(rates(case), rates(cases[line.other]), strict=True)
    return [other / own if line.is_slowdown else own / other for own, other in pairs]


def merge(old: Record, new: Record) -> Record:
    """Return the new record with the contests that only the old one has."""
    return {**new, "contests": {**old.get("contests", {}), **new["contests"]}}


def section(record: Record) -> str:
    """Return the text between the markers."""
    measured = [contest["measured"] for contest in record["contests"].values()]
    longest = max(measured, key=lambda conditions: conditions["rounds"])
    how = HOW.format(seconds=longest["seconds"], rounds=longest["rounds"])
    return f"{_conditions(measured)}\n\n{_table(record)}\n\n{how}"


def insert(text: str, block: str) -> str:
    """Return the text with the block between its markers."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"the page needs the lines {START} and, below it, {END}")
    return f"{before}{START}\n{block}\n{END}{after}"


def _table(record: Record) -> str:
    rows = [_cells(line, record, contest.name) for contest in CONTESTS for line in contest.lines]
    rule = [":--", *["--:"] * (len(COLUMNS) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (COLUMNS, rule, *rows))


def _cells(line: Line, record: Record, contest: str) -> list[str]:
    cases = record["contests"].get(contest, {}).get("cases", {})
    compared = [cases.get(name, {"error": "not measured"}) for name in (line.case, line.other) if name]
    errors = [case["error"] for case in compared if case.get("error")]
    if errors:
        return [line.work, f"– ({errors[0]})", "–"]
    counts = dict.fromkeys(f"{case['parameters']:,}" for case in compared if case.get("parameters"))
    return [line.work, _range_text(range_of(ratios(line, cases))), " / ".join(counts) or "–"]


def _range_text(values: Range) -> str:
    bounds = f" [{number(values.low)}–{number(values.high)}]" if values.low < values.high else ""
    return f"{number(values.median)}×{bounds}"


def number(value: float) -> str:
    """Write a number with three significant digits and no exponent."""
    return f"{float(f'{value:.3g}'):,.15g}"


def _conditions(measured: Sequence[Result]) -> str:
    """Return machines, versions, commits and days of the contests."""
    machines = dict.fromkeys(
        f"{conditions['machine']['cpu']}, {conditions['machine']['threads']} threads"
        for conditions in measured
    )
    versions = dict.fromkeys(
        f"{name} {version}" for conditions in measured for name, version in conditions["versions"].items()
    )
    commits = dict.fromkeys(
        re.sub(r"^(\w{9})\w*", r"\1", conditions["commit"] or "no commit") for conditions in measured
    )
    days = sorted({conditions["date"][:10] for conditions in measured})
    return (
        f"Written by `make bench-peers`. {' and '.join(machines)}; {', '.join(versions)}; ctrbench at "
        f"{', '.join(commits)}; {' to '.join(dict.fromkeys((days[0], days[-1])))}."
    )
