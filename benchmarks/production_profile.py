"""`python benchmarks/production_profile.py`: rows per second of the Production-scale generator, and its profile.

Quantities of a block are computed at their first access, so each stage is timed by accessing it after its inputs; the
last stage encodes the columns. One process; the result is the best of several rounds, without the first, which
compiles. Figures and a chart are written to `--out`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import altair as alt
import polars as pl
import typer

from ctrbench.data.generated.rows import as_text, generate_rows, stored_columns
from ctrbench.data.shards import write_table
from ctrbench.names import Column
from ctrbench.report.plots import save_chart
from ctrbench.storage.files import write_text
from ctrbench.synthetic.production.block import BLOCK_ROWS
from ctrbench.synthetic.production.calibration import calibrate
from ctrbench.synthetic.production.clicks import ClickBlock
from ctrbench.synthetic.production.generator import (
    CATEGORY_SEQUENCE,
    COLUMN_FUNCTIONS,
    DOMAIN_FEATURES,
    ITEM_SEQUENCE,
    Production,
)
from ctrbench.synthetic.production.spec import ProductionSpec, spec_of_size

START, ROWS = 1_234_567_890, 1 << 18
STAGES: dict[str, Callable[[ClickBlock], object]] = {
    "time of day": lambda block: block.times,
    "domain": lambda block: block.domain,
    "user": lambda block: block.user,
    "user's features": lambda block: (block.city_and_device, block.noise),
    "context": lambda block: block.context,
    "length of history": lambda block: block.slots,
    "item": lambda block: block.item,
    "item's features": lambda block: block.item_features,
    "qualities": lambda block: block.quality,
    "content latents": lambda block: block.contents,
    "shared part": lambda block: block.shared,
    "match with behaviors": lambda block: block.match,
    "residual": lambda block: block.residual,
    "probability": lambda block: block.probability,
    "ceiling": lambda block: block.ceiling,
    "click": lambda block: block.outcome,
}
"""Stages in an order in which the inputs of each are available."""


def main() -> None:
    """Measure, print the results and write them with a chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/reports/scale"))
    arguments = parser.parse_args()
    spec = spec_of_size("full").model_copy(update={"calibration_rows": 1 << 16})
    data = Production(spec, calibrate(spec))
    figures = {
        "rows_a_second": rates(spec, data, arguments.rounds),
        "ns_a_row": profile(data, arguments.rounds),
    }
    write_text(arguments.out / "generator.json", json.dumps(figures, indent=1) + "\n")
    files = save_chart(chart(figures["ns_a_row"]), arguments.out / "generator")
    typer.echo(json.dumps(figures, indent=1))
    typer.echo(f"{arguments.out / 'generator.json'}, {', '.join(map(str, files))}")


def profile(data: Production, rounds: int) -> dict[str, float]:
    """Return the nanoseconds per row of each stage, the best of the rounds."""
    stages = STAGES | {"columns": partial(encode_columns, columns=[field.name for field in data.fields])}
    best = dict.fromkeys(stages, float("inf"))
    for number in range(rounds + 1):
        spent = dict.fromkeys(stages, 0.0)
        for begin in range(START, START + ROWS, BLOCK_ROWS):
            block = data.block(begin, begin + BLOCK_ROWS)
            for name, compute in stages.items():
                spent[name] += seconds(partial(compute, block))
        if number > 0:
            best = {name: min(best[name], value) for name, value in spent.items()}
    return {name: round(value / ROWS * 1e9, 1) for name, value in best.items()}


def encode_columns(block: ClickBlock, *, columns: list[str]) -> None:
    """Compute columns of a block whose quantities are available."""
    for name in columns:
        COLUMN_FUNCTIONS[name](block)


def rates(spec: ProductionSpec, data: Production, rounds: int) -> dict[str, int]:
    """Return the rows per second of one process, per selection of columns."""
    fields = [Column.LABEL, Column.PROBABILITY, *(field.name for field in data.fields)]
    content = as_text(spec, data.constants)
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[], object]] = {
            "domains only": lambda: data.rows(START, START + ROWS, list(DOMAIN_FEATURES)),
            "fields, label, probability": lambda: data.rows(START, START + ROWS, fields),
            "the same with both sequences": lambda: data.rows(
                START, START + ROWS, [*fields, ITEM_SEQUENCE, CATEGORY_SEQUENCE]
            ),
            "a prepared shard, written": lambda: write_table(
                Path(folder),
                "shard.parquet",
                generate_rows(content, START, START + ROWS, stored_columns(content)),
            ),
        }
        best = {name: min([seconds(call) for _ in range(rounds + 1)][1:]) for name, call in calls.items()}
    return {name: round(ROWS / value) for name, value in best.items()}


def seconds(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def chart(nanoseconds: dict[str, float]) -> alt.LayerChart:
    """Return a chart with one bar per stage, in order of execution."""
    frame = pl.DataFrame({"stage": list(nanoseconds), "ns": list(nanoseconds.values())})
    base = alt.Chart(frame, width=420, title="Time per stage of the generator, ns per row").encode(
        y=alt.Y("stage:N", sort=list(nanoseconds), title=None),
        x=alt.X("ns:Q", title=None),
    )
    return base.mark_bar() + base.mark_text(align="left", dx=4).encode(text=alt.Text("ns:Q", format=".0f"))


if __name__ == "__main__":
    main()
