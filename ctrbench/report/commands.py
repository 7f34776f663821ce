"""Commands that repeat the runs of a table: every setting is written out, so later defaults cannot change them."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ctrbench.report.comparison import Comparison, Row
from ctrbench.report.labels import selector, show_value
from ctrbench.runs.record import Choice

COMMAND = "ctrbench run"


def run_commands(comparison: Comparison) -> tuple[str, ...]:
    """Return the `ctrbench run` commands of a comparison: one if all methods ran on all backbones with one indicator.

    Seeds are those of all rows together.
    """
    seeds = show_seeds([r.key.seed for row in comparison.rows for r in (*row.finished, *row.unfinished)])
    commands = []
    for indicator in dict.fromkeys(_indicator(row, comparison) for row in comparison.rows):
        rows = [row for row in comparison.rows if _indicator(row, comparison) == indicator]
        for methods, backbones in _products(rows):
            commands.append(_command(comparison, indicator, methods, backbones, seeds))
    return tuple(commands)


def show_seeds(seeds: Sequence[int]) -> str:
    """Return seeds as the command line accepts them: a range such as `3-8`, or a list.

    >>> show_seeds([1, 2, 3]), show_seeds([7]), show_seeds([1, 4])
    ('1-3', '7-7', '1,4')
    """
    numbers = sorted(set(seeds))
    is_range = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if is_range else ",".join(map(str, numbers))


def _indicator(row: Row, comparison: Comparison) -> str:
    return row.key.indicator if row.indicator_suffix else comparison.indicator


def _products(rows: Sequence[Row]) -> Iterable[tuple[tuple[str, ...], list[str]]]:
    """Yield the methods and backbones of as few commands as run no other pairs."""
    methods: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        methods[_full_selector(row.key.backbone)].append(_full_selector(row.key.method))
    backbones: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for backbone, names in methods.items():
        backbones[tuple(dict.fromkeys(names))].append(backbone)
    return backbones.items()


def _command(
    comparison: Comparison, indicator: str, methods: Iterable[str], backbones: Iterable[str], seeds: str
) -> str:
    key = comparison.key
    train = {name.replace("_", "-"): show_value(value) for name, value in key.train.items() if name != "seed"}
    options = {
        "dataset": key.dataset,
        "domains": key.domain_set,
        "indicator": indicator,
        "methods": ",".join(methods),
        "backbone": ",".join(backbones),
        **train,
        "seeds": seeds,
    }
    return " ".join([COMMAND, *(f"--{name} {shlex.quote(value)}" for name, value in options.items())])


def _full_selector(choice: Choice) -> str:
    """Return the selector with all settings; an external plug-in by the name of its file."""
    own = selector(choice.model_copy(update={"source": None}))
    return own if choice.source is None else f"{choice.name}.py{own.removeprefix(choice.name)}"
