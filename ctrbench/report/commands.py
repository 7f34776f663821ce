"""Commands that repeat the runs of a table: every setting is written out, so later defaults cannot change them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from ctrbench.report.comparison import Comparison, Row
from ctrbench.report.labels import selector, show_value
from ctrbench.runs.record import Choice

COMMAND = "ctrbench run"


def run_commands(comparison: Comparison) -> tuple[str, ...]:
    """Return the `ctrbench run` commands of a comparison: one, and one more per further indicator.

    Methods, backbones and seeds are those of all rows together.
    """
    indicators = dict.fromkeys(_shown_indicator(row, comparison) for row in comparison.rows)
    flags = " --controls" if comparison.controls else ""
    return tuple(
        _command(
            indicator, [row for row in comparison.rows if _shown_indicator(row, comparison) == indicator]
        )
        + flags
        for indicator in indicators
    )


def show_seeds(seeds: Sequence[int]) -> str:
    """Return seeds as the command line accepts them: a range such as `3-8`, or a list.

    >>> show_seeds([1, 2, 3]), show_seeds([7]), show_seeds([1, 4])
    ('1-3', '7-7', '1,4')
    """
    numbers = sorted(set(seeds))
    is_range = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if is_range else ",".join(map(str, numbers))


def _shown_indicator(row: Row, comparison: Comparison) -> str:
    return row.key.indicator if row.indicator_suffix else comparison.indicator


def _command(indicator: str, rows: Sequence[Row]) -> str:
    key = rows[0].key
    seeds = [record.key.seed for row in rows for record in (*row.finished, *row.unfinished)]
    train = {name.replace("_", "-"): show_value(value) for name, value in key.train.items() if name != "seed"}
    options = {
        "dataset": key.dataset,
        "domains": key.domain_set,
        "indicator": indicator,
        "methods": _selectors(row.key.method for row in rows),
        "backbone": _selectors(row.key.backbone for row in rows),
        **train,
        "seeds": show_seeds(seeds),
    }
    return " ".join([COMMAND, *(f"--{name} {shlex.quote(value)}" for name, value in options.items())])


def _selectors(choices: Iterable[Choice]) -> str:
    return ",".join(dict.fromkeys(map(_full_selector, choices)))


def _full_selector(choice: Choice) -> str:
    """Return the selector with all settings; an external plug-in by the name of its file."""
    own = selector(choice.model_copy(update={"source": None}))
    return own if choice.source is None else f"{choice.name}.py{own.removeprefix(choice.name)}"
