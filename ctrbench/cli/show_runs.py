"""Tables about runs: the cost of each before it starts, and the result of each afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ctrbench.cli import console
from ctrbench.cli.formats import DASH, listing, metric, short_count
from ctrbench.plain_text import one_line

if TYPE_CHECKING:
    from ctrbench.cost.explain import PairCost
    from ctrbench.cost.forecast import Forecast
    from ctrbench.cost.parameters import Cost
    from ctrbench.eval.metrics.base import Metric
    from ctrbench.runs.grid import Run
    from ctrbench.runs.record import RunRecord

COST_TITLE = (
    "Parameters, and multiply-adds per row of a forward pass (training takes about three times as many)"
)


def show_forecast(forecast: Forecast) -> None:
    """Print the cost of each method on each backbone, the memory of the largest run, and why a cost is unknown."""
    table = listing(COST_TITLE)
    for heading in ("method", "backbone"):
        table.add_column(heading, overflow="fold")
    for heading in ("embed", "shared", "per domain", "multiply-\nadds/row", "× plain", "indicator"):
        table.add_column(heading, justify="left" if heading == "indicator" else "right")
    for pair in forecast.pairs:
        if pair.cost is not None:
            table.add_row(*map(one_line, _cost_row(pair, pair.cost)))
    if table.row_count:
        console.print_table(table, console.err)
        console.print_note(f"memory of the largest run: about {forecast.memory / 1e9:.1f} GB")
    for pair in forecast.pairs:
        if pair.reason:
            console.print_note(one_line(f"{pair.method} × {pair.backbone}: {pair.reason}"))


def _cost_row(pair: PairCost, cost: Cost) -> tuple[str, ...]:
    counts = (cost.embedding, cost.shared, cost.per_domain, cost.row)
    ratio = DASH if pair.times_plain is None else f"{pair.times_plain:.2f}"
    return (pair.method, pair.backbone, *map(short_count, counts), ratio, pair.indicator)


def show_runs(runs: Sequence[tuple[Run, RunRecord | None]]) -> None:
    """Print one line per run with a result, then the errors of failed runs; runs without a record are left out.

    Without a result there is no table.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    titles = [shown.title for shown in _shown_metrics()]
    for heading in ("method", "backbone", "seed", *titles, "epochs", "steps", "s"):
        if heading in ("method", "backbone"):
            table.add_column(heading, overflow="fold", min_width=9)
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    recorded = [(run, record) for run, record in runs if record is not None]
    for run, record in recorded:
        if record.result is not None:
            table.add_row(*map(one_line, _result_row(run, record)))
    if table.row_count:
        console.out.print(table)
    for run, record in recorded:
        if record.result is None:
            console.print_line(f"{one_line(run.label)}: {describe_outcome(record)}")


def show_dry_run(grid: Sequence[Run], unfinished: Sequence[Run]) -> None:
    """Print one line per run with its state: finished, to run, or not supported by the method."""
    waiting = {run.key.digest for run in unfinished}
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("method", "backbone", "seed", "state"):
        table.add_column(heading, justify="right" if heading == "seed" else "left")
    for run in grid:
        state = "to run" if run.key.digest in waiting else "finished"
        table.add_row(
            *map(one_line, run.labels), str(run.key.seed), "not supported" if run.unsupported else state
        )
    console.out.print(table)
    num_finished = len(grid) - len(unfinished)
    console.print_line(
        f"{len(grid)} runs, {num_finished} finished, {len(unfinished)} to run; nothing was trained"
    )


def _result_row(run: Run, record: RunRecord) -> Iterable[str]:
    assert record.result is not None
    key, test, history = record.key, record.result.test, record.result.history
    best, last = history[record.result.best_evaluation - 1], history[-1]
    return (
        *((key.method.name, key.backbone.name) if key.control is None else run.labels),
        str(record.key.seed),
        *(metric(test.get(shown.name), shown.digits) for shown in _shown_metrics()),
        f"{best.epoch:.1f}/{last.epoch:.1f}",
        short_count(last.step),
        f"{record.measured.seconds.get('train', 0.0):.1f}",
    )


def describe_outcome(record: RunRecord) -> str:
    """Return the metrics of a run in one line, or its status and error."""
    if record.result is None:
        return one_line(f"{record.status}: {record.error}")
    split, seconds = ("dev " if record.key.is_trial else ""), sum(record.measured.seconds.values())
    values = [
        f"{split}{shown.title} {metric(value, shown.digits)}"
        for shown in _shown_metrics()
        if (value := (record.result.test or record.result.dev).get(shown.name)) is not None
        or not record.key.is_trial
    ]
    return " · ".join([*values, f"{seconds:.0f} s"])


def _shown_metrics() -> list[Metric]:
    """Return the metrics by which reports rank rows."""
    from ctrbench.eval.metrics.registry import builtin_metrics

    return [shown for shown in builtin_metrics().metrics if shown.in_table == "ranked"]
