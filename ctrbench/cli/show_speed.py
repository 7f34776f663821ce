"""Tables of the training benchmark: time per phase, then size and lower bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from ctrbench.cli import console
from ctrbench.cli.formats import DASH, listing, short_count, three_digits
from ctrbench.plain_text import one_line

if TYPE_CHECKING:
    from ctrbench.speed.bench import BenchResult, CaseResult
    from ctrbench.speed.measure import Figures

    Measured = Sequence[tuple[CaseResult, Figures]]

TABLE_COLUMNS = 120
"""Width of the tables where the output is no terminal."""

_SHORT = {"embedding": "embed", "optimizer": "optim", "per_domain": "domain"}


def show_speed(result: BenchResult) -> None:
    """Print the time of each phase of a step, then sizes and bounds, and below why a case has no figures."""
    measured = [(line, line.figures) for line in result.cases if line.figures is not None]
    if measured:
        width = max(console.out.width, TABLE_COLUMNS)
        wide = console.out if console.out.is_terminal else console.PlainConsole(width=width)
        console.print_table(
            _speed_table(f"Milliseconds per step; {_conditions_text(result, measured)}", measured), wide
        )
        console.print_table(_bounds_table("Size, and lower bounds of a step in milliseconds", measured), wide)
    console.print_line(
        f"bounds assume {result.roofs.gflops:,.0f} GFLOP/s in matrix products and "
        f"{result.roofs.gigabytes_per_second:,.1f} GB/s in copying, measured now"
    )
    for line in result.cases:
        if line.reason is not None:
            console.print_line(one_line(f"{line.label}: {line.reason}"))


def _conditions_text(result: BenchResult, measured: Measured) -> str:
    machine, first = result.machine, measured[0][0]
    threads = f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}"
    device = machine.get("gpu") or f"{machine['cpu']}, {threads}"
    return f"{first.data}, {first.rows:,} rows; {device}"


def _speed_table(title: str, measured: Measured) -> Table:
    phases = measured[0][1].phases_ms
    table = _case_table(title, "rows/s", "step", *(_SHORT.get(phase, phase) for phase in phases))
    for line, figures in measured:
        times = (figures.ms_per_step, *figures.phases_ms.values())
        table.add_row(*_case_cells(line), f"{figures.rows_per_second:,.0f}", *map(three_digits, times))
    return table


def _bounds_table(title: str, measured: Measured) -> Table:
    weights = (f"{_SHORT.get(kind, kind)}\nweights" for kind in measured[0][1].parameters)
    table = _case_table(
        title, "rows/\nstep", "memory\nMB", *weights, "arith-\nmetic", "band-\nwidth", "reached"
    )
    for line, figures in measured:
        memory, bounds = figures.peak_memory_bytes, figures.bounds
        table.add_row(
            *_case_cells(line),
            f"{figures.rows_per_step:,.0f}",
            DASH if memory is None else f"{memory / 1e6:,.0f}",
            *map(short_count, figures.parameters.values()),
            three_digits(bounds.arithmetic_ms),
            three_digits(bounds.bandwidth_ms),
            f"{figures.closeness:.0f} %",
        )
    return table


def _case_table(title: str, *headings: str) -> Table:
    table = listing(title)
    table.add_column("method", overflow="fold")
    table.add_column("backbone", overflow="fold")
    for heading in ("domains", "batch", *headings):
        table.add_column(heading, justify="right")
    return table


def _case_cells(line: CaseResult) -> tuple[str, ...]:
    return line.method, line.backbone, f"{line.domains:,}", f"{line.batch_size:,}"
