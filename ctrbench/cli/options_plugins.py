"""Options and arguments of the commands about plug-ins and of the training benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctrbench.cli import completion, declare, locations
from ctrbench.cli.options import LATEST

KINDS = ("datasets", "methods", "backbones", "studies", "readers", "metrics", "charts", "drawings")
Kind = Annotated[
    str,
    typer.Argument(
        metavar="KIND", help=f"One of {', '.join(KINDS)}.", autocompletion=completion.choices(*KINDS)
    ),
]
ListedMethod = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Method whose settings and tuning ranges are listed (name or file).",
        show_default="all methods in short",
        autocompletion=completion.methods,
    ),
]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the method, a Python identifier.")]
PluginFolder = Annotated[
    Path, typer.Option(metavar="DIR", parser=locations.local_path, help="Folder to write the file to.")
]
CheckedMethods = Annotated[
    str,
    typer.Argument(
        metavar="METHODS",
        help="One or more methods, separated by commas (name, selector or file), or all.",
        autocompletion=completion.methods,
    ),
]
CheckedBackbones = Annotated[
    str | None,
    declare.backbones("--backbone", show_default="all built-in backbones, in every structure"),
]
Method = Annotated[
    str,
    typer.Argument(
        metavar="METHOD",
        help="Method: name, name\\[setting=value] or path/to/file.py.",
        autocompletion=completion.methods,
    ),
]
Backbone = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Backbone that the method changes.", autocompletion=completion.backbones
    ),
]
DatasetOrSynthetic = Annotated[
    str | None, declare.dataset("--dataset", show_default=f"{LATEST}; synthetic data if there is none")
]
ExplainedBatchSize = Annotated[
    int, declare.count("--batch-size", help="Rows of the batch whose cost is shown.")
]
ExplainedEmbeddingSize = Annotated[
    int, declare.count("--embedding-size", help="Numbers per embedding vector.")
]
DomainCounts = Annotated[
    str | None,
    typer.Option(
        "--domains",
        metavar="LIST",
        help="Domain counts of the synthetic data, separated by commas.",
        show_default="300",
    ),
]
BatchSizes = Annotated[str, typer.Option(metavar="LIST", help="Batch sizes, separated by commas.")]
MeasuredDataset = Annotated[str | None, declare.dataset("--dataset", show_default="synthetic data")]
MeasuredRows = Annotated[
    int | None,
    declare.count("--rows", max=100_000_000, help="Rows of the synthetic data.", show_default="200000"),
]
EmbeddingRows = Annotated[
    int | None,
    typer.Option(
        min=1, max=declare.MAX_COUNT, hidden=True, help="Embedding rows of all fields of the synthetic data."
    ),
]
Seconds = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.01,
        max=3_600.0,
        help="Seconds to measure per case.",
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        parser=locations.local_path,
        help="JSON file for all figures.",
        show_default="none",
    ),
]
