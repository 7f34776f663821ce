"""`python benchmarks/memory.py --rows 2e6,20e6,60e6`: the peak memory of a streamed run against the rows of its data.

Generated data of more and more rows, users, items and domains alike, are trained on, selected on and scored by a small
model, generated while they are read, so that what is measured is the path of the data. Each run is a process of its
own. The figures and their picture go to `--out`; the home folder is a scratch one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import typer

from ctrbench.report.plots import save_chart
from ctrbench.storage.files import write_text

SAME = "users=1000000,items=100000,domains=50"
"""Settings that would otherwise grow with the rows."""
SMALL = ["--backbone", "dnn[hidden=8]", "--embedding-size", "2", "--batch-size", "8192", "--window", "4e6"]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="2e6,20e6,60e6", help="numbers of rows, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("docs/reports/scale"))
    parser.add_argument("--stored", action="store_true", help="from stored shards, not generated when read")
    arguments = parser.parse_args()
    lines = [measure(rows, is_stored=arguments.stored) for rows in arguments.rows.split(",")]
    write_text(arguments.out / "memory.json", json.dumps(lines, indent=1) + "\n")
    files = save_chart(picture(lines), arguments.out / "memory")
    typer.echo(f"{arguments.out / 'memory.json'}, {', '.join(map(str, files))}")


def measure(rows: str, *, is_stored: bool) -> dict[str, Any]:
    """Prepare data of so many rows, make one run and return what it took."""
    with tempfile.TemporaryDirectory(prefix="ctrbench-") as folder:
        environment = {**os.environ, "CTRBENCH_HOME": folder}
        how = [] if is_stored else ["--on-the-fly"]
        call(["prepare", "production", "--rows", rows, "--variant", SAME, *how], environment)
        call(["run", "--methods", "plain", *SMALL, "--results", f"{folder}/results"], environment)
        (file,) = Path(folder, "results").rglob("*.json")
        record = json.loads(file.read_text(encoding="utf-8"))
    assert record["status"] == "finished", record["error"]
    measured = record["measured"]
    line = {
        "rows": int(float(rows)),
        "rows_trained_on": record["result"]["rows_seen"],
        "peak_bytes": measured["peak_memory_bytes"],
        "seconds": measured["seconds"],
        "parameters": record["result"]["parameters"],
    }
    typer.echo(json.dumps(line))
    return line


def call(command: list[str], environment: dict[str, str]) -> None:
    """Run the command line and let its error end this script."""
    program = "from ctrbench.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *command], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)


def picture(lines: list[dict[str, Any]]) -> alt.LayerChart:
    """Return the picture: rows from left to right, memory from zero up."""
    frame = pl.DataFrame(
        {"rows": [line["rows"] / 1e6 for line in lines], "GB": [line["peak_bytes"] / 1e9 for line in lines]}
    )
    base = alt.Chart(frame, width=420, height=240, title="Peak memory of a streamed run").encode(
        x=alt.X("rows:Q", title="rows of the data, millions", scale=alt.Scale(type="log")),
        y=alt.Y("GB:Q", title="peak memory, GB", scale=alt.Scale(zero=True)),
    )
    label = base.mark_text(dy=-12).encode(text=alt.Text("GB:Q", format=".2f"))
    return base.mark_line(point=True) + label


if __name__ == "__main__":
    main()
