"""Options and arguments of the commands about data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctrbench.cli import completion, declare, locations

SYNTHETIC = "Synthetic data"
"""Help panel of options that apply to generated data only."""

Card = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="Name of a dataset (ctrbench list datasets), or path of a card, my.toml.",
        autocompletion=completion.cards,
    ),
]
Sources = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PATH",
        parser=locations.local_path,
        help="Raw file, archive or folder; may be repeated.",
        show_default="downloaded, or the path in the card",
    ),
]
ExportFolder = Annotated[
    str | None,
    typer.Option(
        metavar="LOCATION",
        parser=locations.location,
        help="Also write all rows as plain parquet files to this empty folder, for other programs.",
        show_default="no export",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Prepare again even if nothing has changed, and replace a dataset of the same name from another card.",
    ),
]
PreparedArgument = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="Name of a prepared dataset.", autocompletion=completion.prepared),
]
ChartFolder = Annotated[
    Path, typer.Option(metavar="DIR", parser=locations.local_path, help="Folder for the chart.")
]
Top = Annotated[int, declare.count(help="Number of domains to print.")]
Table = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", parser=locations.existing_path, help="CSV file (also .gz) or parquet file."
    ),
]
CardFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        parser=locations.local_path,
        help="Card to write.",
        show_default="printed instead",
    ),
]
DatasetName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the dataset.", show_default="name of the file")
]
RawFolder = Annotated[
    Path, typer.Option(metavar="DIR", parser=locations.local_path, help="Folder for the raw files.")
]
RawRows = Annotated[int, declare.count(help="Total number of rows of training and test files.")]
GeneratorSeed = Annotated[
    int, typer.Option(metavar="N", min=0, max=(1 << 32) - 1, help="Seed of the generator.")
]
Rows = Annotated[
    str | None,
    typer.Option(
        metavar="N|SIZE",
        help="Number of rows, such as 20e6, or a size: 200k, 2m, 20m, 200m or full.",
        show_default="200k",
        rich_help_panel=SYNTHETIC,
        autocompletion=completion.choices("200k", "2m", "20m", "200m", "full"),
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Generator settings, separated by commas: null, long-tail, sequences, rows-per-user=200, "
        "interaction=mlp, seed=1, …",
        show_default="none",
        rich_help_panel=SYNTHETIC,
    ),
]
GeneratorJobs = Annotated[
    int | None,
    declare.count(
        "--jobs",
        max=declare.MAX_PROCESSES,
        help="Number of shards generated in parallel.",
        show_default="number of cores",
        rich_help_panel=SYNTHETIC,
    ),
]
OnTheFly = Annotated[
    bool,
    typer.Option(
        "--on-the-fly",
        help="Store no rows; generate them each time they are read.",
        rich_help_panel=SYNTHETIC,
    ),
]
DryPreparation = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Estimate disk space and time without generating anything.",
        rich_help_panel=SYNTHETIC,
    ),
]
GeneratorEngine = Annotated[str, declare.engine("generate", SYNTHETIC)]
GeneratorAddress = Annotated[str | None, declare.address(SYNTHETIC)]
