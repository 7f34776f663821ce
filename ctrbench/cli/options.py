"""Options that several commands share, and those of runs and reports, with help and completion.

A default that depends on the machine, the data or another option is None in the code; `show_default` describes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctrbench.cli import completion, declare, locations

LATEST = "most recently prepared"

TRAINING = "Training"
"""Help panel of options that change results."""
EXECUTION = "Execution"
"""Help panel of options that change speed and location only."""

# Datasets.

Domains = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="Domain set: a name from the card, or features separated by commas (a,b,c).",
        show_default="the set named default",
    ),
]
Dataset = Annotated[str | None, declare.dataset(show_default=LATEST)]


# Selection of runs.

Methods = Annotated[str, declare.methods()]
Backbones = Annotated[str, declare.backbones()]
Seeds = Annotated[str, declare.seeds()]
StudySeeds = Annotated[str | None, declare.seeds("--seeds", show_default="set by the study")]
Indicator = Annotated[
    str | None,
    typer.Option(
        metavar="FEATURE",
        help="Feature that indexes per-domain parameters; all uses the full domain.",
        show_default="set by the card",
    ),
]
Study = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="Name of a study (ctrbench list studies), or path of your own, my.toml.",
        autocompletion=completion.studies,
    ),
]
Results = Annotated[
    str,
    typer.Option(
        metavar="LOCATION",
        parser=locations.location,
        help="Folder of the run records, or a URL such as s3://bucket/results.",
    ),
]
Tuned = Annotated[
    bool,
    typer.Option("--tuned", help="Use the best settings that ctrbench tune found for each method."),
]
Trials = Annotated[
    int,
    declare.count(
        max=10_000, help="Trials per method and backbone, beyond a first one without changed settings."
    ),
]
TuningSeed = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        max=(1 << 32) - 1,
        metavar="SEED",
        help="Seed of all trials and of their proposals; keep it apart from the seeds of run.",
    ),
]
Controls = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Add the controls of the methods: each with shuffled domains, and plain at equal cost.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="List the runs, finished or not, with their cost and memory; train nothing."
    ),
]

# Training.

Preset = Annotated[
    str | None,
    declare.choice(
        "public",
        "production",
        help="Training set-up of a paper: tower 128-64-32 and batch size 256 (public), or tower 512-256-128, "
        "batch size 1024 and one epoch (production).",
        show_default="none",
        rich_help_panel=TRAINING,
    ),
]
Epochs = Annotated[
    int | None,
    declare.count(
        help="Maximum number of passes over the training rows.",
        show_default="10, or set by --preset",
        rich_help_panel=TRAINING,
    ),
]
BatchSize = Annotated[
    int | None,
    declare.count(
        help="Rows per training step.", show_default="256, or set by --preset", rich_help_panel=TRAINING
    ),
]
EmbeddingSize = Annotated[int, declare.count(help="Numbers per embedding vector.", rich_help_panel=TRAINING)]
LearningRate = Annotated[float, typer.Option("--lr", help="Learning rate of Adam.", rich_help_panel=TRAINING)]
Evaluations = Annotated[
    int,
    declare.count(max=1_000, help="Evaluations on the dev split per epoch.", rich_help_panel=TRAINING),
]
EvaluationRows = Annotated[
    int,
    declare.count(help="Maximum number of dev rows per evaluation.", rich_help_panel=TRAINING),
]
Patience = Annotated[
    int,
    declare.count(
        help="Evaluations without a better dev AUC before training stops.", rich_help_panel=TRAINING
    ),
]
AnnealEpochs = Annotated[
    float,
    typer.Option(
        metavar="EPOCHS", help="Length of annealing, for methods that anneal.", rich_help_panel=TRAINING
    ),
]
Optimizer = Annotated[
    str,
    declare.choice(
        "adam",
        "lazy_adam",
        help="Optimizer of the embeddings; lazy_adam updates only rows that occur in the batch.",
        rich_help_panel=TRAINING,
    ),
]
Precision = Annotated[
    str, declare.choice("float32", "bf16", help="Precision of matrix products.", rich_help_panel=TRAINING)
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="ROWS",
        help="Rows kept in memory for shuffling, such as 4e6; 0 keeps all.",
        show_default="all; about 4 million for datasets of more than 8 million",
        rich_help_panel=TRAINING,
    ),
]

# Execution.

Device = Annotated[str, declare.choice("cpu", "cuda", help="Device to train on.", rich_help_panel=EXECUTION)]
Threads = Annotated[
    int, declare.count(max=declare.MAX_PROCESSES, help="Threads per process.", rich_help_panel=EXECUTION)
]
Jobs = Annotated[
    int | None,
    declare.count(
        max=declare.MAX_PROCESSES,
        help="Number of runs in parallel.",
        show_default="number of cores, or as many as fit into memory",
        rich_help_panel=EXECUTION,
    ),
]
Workers = Annotated[
    int,
    declare.count(
        max=declare.MAX_PROCESSES,
        help="Processes per run (data-parallel training).",
        rich_help_panel=EXECUTION,
    ),
]
GpusPerRun = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        min=0.0,
        max=1.0,
        help="GPUs, or fraction of one, reserved for each run.",
        show_default="1 with --device cuda",
        rich_help_panel=EXECUTION,
    ),
]
Engine = Annotated[str, declare.engine("train", EXECUTION)]
Address = Annotated[str | None, declare.address(EXECUTION)]
CheckpointSeconds = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=86_400.0,
        hidden=True,
        envvar="CTRBENCH_CHECKPOINT_SECONDS",
        help="Seconds between two checkpoints of a run.",
    ),
]

# Results.

RecordedDomains = Annotated[
    str | None,
    typer.Option("--domains", metavar="SET", help="Only records of this domain set.", show_default="all"),
]
Bins = Annotated[
    int, declare.count(help="Number of bins of domains by size, each with an equal share of the rows.")
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="METRICS",
        help="Additional metrics, separated by commas: a file, my_metric.py, or the name of an installed one.",
        show_default="built-in metrics only",
    ),
]
Charts = Annotated[
    str | None,
    typer.Option(
        metavar="CHARTS",
        help="Additional charts, separated by commas: a file, my_chart.py, or the name of an installed one.",
        show_default="built-in charts only",
    ),
]
StudyFolder = Annotated[
    Path, typer.Option(metavar="DIR", parser=locations.local_path, help="Output directory.")
]
ReportFolder = Annotated[
    Path, typer.Option(metavar="DIR", parser=locations.local_path, help="Folder for tables and charts.")
]
Leaderboard = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=locations.local_path,
        help="Markdown file whose leaderboard is updated, such as BENCHMARKS.md.",
        show_default="none",
    ),
]
