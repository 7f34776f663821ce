"""`python benchmarks/ladder.py DATASET`: how much of the interactions in synthetic data plain networks and trees learn.

Trains plain with all ids, without the user id, and with each regularizer and embedding size, and trees, and prints a
markdown table of AUC on dev and test. Beside each AUC stands the share (AUC − levels only) / (ceiling − levels only):
levels only is the true score of all main effects, the ceiling is all that fields tell. Runs are ordinary records under
`--results`; finished ones are not repeated. Steps whose settings this version does not have are named below the table.
Bounds of a twin of IAAC are read from its `twin.json` (`--twin FILE`). Choose by dev.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import typer

from ctrbench.data.generated.rows import generator_of
from ctrbench.data.home import home_folder
from ctrbench.data.prepared import open_prepared
from ctrbench.errors import SettingError
from ctrbench.eval.arrays import auc
from ctrbench.names import Column, Split
from ctrbench.runs.engines.engine import make_engine
from ctrbench.runs.experiment import Experiment, plan_runs
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.synthetic.production.generator import LEVELS

SPLITS = (Split.DEV, Split.TEST)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row of the ladder: a method with its settings, and training settings that differ from those of the table."""

    label: str
    method: str
    train: Mapping[str, object]


def steps(folder: Path) -> tuple[Step, ...]:
    """Return the rows of the ladder; `folder` contains the file of the method without user ids."""
    methods = {
        "all ids": "plain",
        "without the user id": f"{folder / 'without_fields.py'}[fields=user_id]",
        "without user and item ids": f"{folder / 'without_fields.py'}[fields=user_id+item_id]",
        "min_count 50": "plain[min_count=50]",
        "embedding L2 1e-6": "plain[embedding_l2=1e-6]",
        "embedding L2 1e-5": "plain[embedding_l2=1e-5]",
        "embedding L2 1e-4": "plain[embedding_l2=1e-4]",
        "dropout 0.1": "plain[dropout=0.1]",
        "dropout 0.3": "plain[dropout=0.3]",
    }
    rows = [Step(label=label, method=method, train={}) for label, method in methods.items()]
    rows += [
        Step(label=f"embedding size {size}", method="plain", train={"embedding_size": size})
        for size in (4, 8, 16)
    ]
    return (*rows, Step(label="trees", method="gbdt", train={}))


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """AUC per split of the main effects alone, and of all that fields tell."""

    levels: Mapping[Split, float]
    ceiling: Mapping[Split, float]

    def share(self, split: Split, area: float) -> float:
        """Return the share of the way from levels only to the ceiling."""
        return (area - self.levels[split]) / (self.ceiling[split] - self.levels[split])


class Silent:
    """Watcher that prints finished runs only."""

    def started(self, run: Run) -> None:
        """Ignore the start."""

    def ticked(self, run: Run, tick: object) -> None:
        """Ignore the progress."""

    def finished(self, run: Run, record: RunRecord) -> None:
        """Print the status of the run."""
        typer.echo(f"{run.label}: {record.status}", err=True)


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--twin", type=Path, help="twin.json of a twin of IAAC, for its bounds")
    parser.add_argument("--preset", default=None)
    parser.add_argument("--backbone", default="dnn")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--patience", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--embedding-size", type=int, default=None)
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="labels of rows, separated by commas (default: all)")
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    bounds = bounds_of_twin(options.twin) if options.twin else bounds_of_generated(options.dataset)
    chosen = [part.strip() for part in options.only.split(",") if part.strip()]
    rows, problems = [], []
    for step in steps(Path(__file__).parent):
        if chosen and step.label not in chosen:
            continue
        try:
            experiment = plan(step, options)
        except SettingError as error:
            problems.append(f"{step.label}: {error}")
            continue
        experiment.execute(
            make_engine(config=experiment.config, checkpoint_seconds=600.0, jobs=options.jobs), Silent()
        )
        rows.append(row_of(step.label, (record for _, record in experiment.records()), bounds))
    typer.echo("\n".join([*head(bounds), *rows, "", *problems]))


def plan(step: Step, options: argparse.Namespace) -> Experiment:
    """Return the runs of one row; raises `SettingError` for settings that this version does not have."""
    names = ("epochs", "patience", "batch_size", "embedding_size", "lr")
    settings = {name: getattr(options, name) for name in names} | dict(step.train)
    return plan_runs(
        RunStore(results=options.results, home=home_folder()),
        dataset=options.dataset,
        methods=step.method,
        backbones=options.backbone,
        seeds=options.seeds,
        preset=options.preset,
        settings=settings,
    )


def bounds_of_generated(dataset: str) -> Bounds:
    """Return the bounds of production data, from the true logits of their dev and test rows."""
    prepared = open_prepared(dataset)
    data = generator_of(json.dumps(prepared.manifest.generator, sort_keys=True))
    ends = (*data.cuts, data.spec.rows)
    areas: dict[str, dict[Split, float]] = {LEVELS: {}, Column.CEILING: {}}
    for split, start, stop in zip(SPLITS, ends, ends[1:], strict=False):
        columns = data.rows(start, stop, [Column.LABEL, *areas])
        for name, area in areas.items():
            area[split] = auc(columns[Column.LABEL], columns[name]) or 0.5
    return Bounds(levels=areas[LEVELS], ceiling=areas[Column.CEILING])


def bounds_of_twin(file: Path) -> Bounds:
    """Return the bounds of a twin of IAAC, in expectation over labels."""
    content = json.loads(file.read_text(encoding="utf-8"))
    steps_of_auc = content["auc"]
    parts = {Split.DEV: "features, fifth sixth", Split.TEST: "features, last sixth"}
    return Bounds(
        levels={split: steps_of_auc[content["levels"]][part] for split, part in parts.items()},
        ceiling={split: steps_of_auc[content["ceiling"]][part] for split, part in parts.items()},
    )


def head(bounds: Bounds) -> Sequence[str]:
    """Return the head of the table and the rows of the bounds."""
    lines = [
        "| plain on dnn | dev AUC | share | test AUC | share | best after epochs |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for label, areas in (("levels only", bounds.levels), ("ceiling", bounds.ceiling)):
        cells = " | ".join(
            f"{areas[split]:.4f} | {bounds.share(split, areas[split]):.2f}" for split in SPLITS
        )
        lines.append(f"| {label} | {cells} | |")
    return lines


def row_of(label: str, records: Iterable[RunRecord | None], bounds: Bounds) -> str:
    """Return one row of the table: means over seeds; a row without a finished run says so."""
    results = [record.result for record in records if record is not None and record.result is not None]
    if not results:
        return f"| {label} | failed | | | | |"
    cells = []
    for split in SPLITS:
        area = mean(getattr(result, split)["auc"] or 0.5 for result in results)
        cells.append(f"{area:.4f} | {bounds.share(split, area):.2f}")
    best = mean(result.history[result.best_evaluation - 1].epoch for result in results)
    return f"| {label} | {' | '.join(cells)} | {best:.1f} |"


if __name__ == "__main__":
    main()
