"""`python benchmarks/production_profile.py`: rows per second of the Production-scale generator, and its profile.

Everything behind a block of rows is computed when it is first asked for, so each stage is timed by asking for it when
all that it needs is there; what remains up to the whole is the putting out of columns. One process, the best of several
rounds, of which the first, which compiles, does not count. Figures and their picture go to `--out`.
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
from ctrbench.synthetic.production.spec import ProductionSpec, preset

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
    "match with behaviours": lambda block: block.match,
    "residual": lambda block: block.residual,
    "probability": lambda block: block.probability,
    "ceiling": lambda block: block.ceiling,
    "click": lambda block: block.outcome,
}
"""In an order in which each finds what it needs."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/reports/scale"))
    arguments = parser.parse_args()
    spec = preset("full").model_copy(update={"calibration_rows": 1 << 16})
    data = Production(spec, calibrate(spec))
    found = {
        "rows_a_second": rates(spec, data, arguments.rounds),
        "ns_a_row": profile(data, arguments.rounds),
    }
    write_text(arguments.out / "generator.json", json.dumps(found, indent=1) + "\n")
    files = save_chart(picture(found["ns_a_row"]), arguments.out / "generator")
    typer.echo(json.dumps(found, indent=1))
    typer.echo(f"{arguments.out / 'generator.json'}, {', '.join(map(str, files))}")


def profile(data: Production, rounds: int) -> dict[str, float]:
    """Return the nanoseconds a row of each stage, the best of the rounds."""
    asked = STAGES | {"columns put out": partial(put_out, columns=[field.name for field in data.fields])}
    best = dict.fromkeys(asked, float("inf"))
    for number in range(rounds + 1):
        spent = dict.fromkeys(asked, 0.0)
        for begin in range(START, START + ROWS, BLOCK_ROWS):
            block = data.block(begin, begin + BLOCK_ROWS)
            for name, ask in asked.items():
                spent[name] += seconds(partial(ask, block))
        if number > 0:
            best = {name: min(best[name], value) for name, value in spent.items()}
    return {name: round(value / ROWS * 1e9, 1) for name, value in best.items()}


def put_out(block: ClickBlock, *, columns: list[str]) -> None:
    """Make the columns that models see of a block, whose quantities are there."""
    for name in columns:
        COLUMN_FUNCTIONS[name](block)


def rates(spec: ProductionSpec, data: Production, rounds: int) -> dict[str, int]:
    """Return the rows per second of one process, for what is asked of it."""
    fields = [Column.LABEL, Column.PROBABILITY, *(field.name for field in data.fields)]
    content = as_text(spec, data.constants)
    with tempfile.TemporaryDirectory() as folder:
        asked: dict[str, Callable[[], object]] = {
            "domains alone": lambda: data.rows(START, START + ROWS, list(DOMAIN_FEATURES)),
            "fields, label, probability": lambda: data.rows(START, START + ROWS, fields),
            "the same and both sequences": lambda: data.rows(
                START, START + ROWS, [*fields, ITEM_SEQUENCE, CATEGORY_SEQUENCE]
            ),
            "a prepared shard, written": lambda: write_table(
                Path(folder),
                "shard.parquet",
                generate_rows(content, START, START + ROWS, stored_columns(content)),
            ),
        }
        best = {name: min([seconds(ask) for _ in range(rounds + 1)][1:]) for name, ask in asked.items()}
    return {name: round(ROWS / value) for name, value in best.items()}


def seconds(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def picture(nanoseconds: dict[str, float]) -> alt.LayerChart:
    """Return the picture: a bar a stage, in the order of the work."""
    frame = pl.DataFrame({"stage": list(nanoseconds), "ns": list(nanoseconds.values())})
    base = alt.Chart(frame, width=420, title="Where the generator's time goes, ns a row").encode(
        y=alt.Y("stage:N", sort=list(nanoseconds), title=None),
        x=alt.X("ns:Q", title=None),
    )
    return base.mark_bar() + base.mark_text(align="left", dx=4).encode(text=alt.Text("ns:Q", format=".0f"))


if __name__ == "__main__":
    main()
