"""The command that makes a row again: every setting written out, so that no later default can change its meaning."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ctrbench.report.comparison import Row, selector, show_value
from ctrbench.runs.record import Choice


def run_command(row: Row) -> str:
    """Return the `ctrbench run` command of a row, with all its seeds."""
    key = row.key
    seeds = [record.key.seed for record in (*row.finished, *row.unfinished)]
    options = {
        "dataset": key.dataset,
        "domains": key.domain_set,
        "indicator": key.indicator,
        "methods": _full(key.method),
        "backbone": _full(key.backbone),
        **{name.replace("_", "-"): show_value(value) for name, value in key.train.items() if name != "seed"},
        "seeds": show_seeds(seeds),
    }
    written = " ".join(f"--{name} {shlex.quote(value)}" for name, value in options.items())
    return f"ctrbench run {written}"


def show_seeds(seeds: Sequence[int]) -> str:
    """Write seeds as the command line takes them: `3-8`, or a list.

    >>> show_seeds([1, 2, 3]), show_seeds([7]), show_seeds([1, 4])
    ('1-3', '7-7', '1,4')
    """
    known = sorted(set(seeds))
    is_range = known == list(range(known[0], known[-1] + 1))
    return f"{known[0]}-{known[-1]}" if is_range else ",".join(map(str, known))


def _full(choice: Choice) -> str:
    """Write a choice with all its settings; a plug-in from outside by the name of its file."""
    own = selector(choice.model_copy(update={"source": None}))
    return own if choice.source is None else f"{choice.name}.py{own.removeprefix(choice.name)}"
