"""`python benchmarks/production_levels.py RESULTS DATASET`: AUC between and within domains.

The known click probabilities give the true level of each domain of the generator (scenario × position × profile; all
domains unseen in training count as one): the mean of its true logits. Per run, the script computes the AUC of predicted
levels (mean score per domain), the AUC of true levels, the AUC after replacing predicted by true levels, and GAUC
within domains. Gains are differences to plain with the same backbone, training and seed. The predictions of the runs
and the prepared data must be in the home folder.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import typer

from ctrbench.data.home import home_folder
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.eval.arrays import auc
from ctrbench.eval.grouped import group_metrics
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import GroupTotals
from ctrbench.names import Column, Split
from ctrbench.report.labels import labels
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import is_file, local_copy, write_text

TUPLE, TRUTH, OWN = "tuple", "truth", "own"
FIGURES = ("auc", "auc_of_own_levels", "auc_with_true_levels", "gauc_within")

Row = dict[str, object]


@dataclass(frozen=True)
class Run:
    """Run with the label of its method and its measured figures."""

    record: RunRecord
    method: str
    figures: Mapping[str, float]


def main() -> None:
    """Measure all finished runs of a dataset, print the gains over plain and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("docs/reports/scale"))
    arguments = parser.parse_args()
    store = RunStore(results=arguments.results, home=home_folder())
    prepared = open_prepared(arguments.dataset)
    records = [record for record in store.records(arguments.dataset) if record.result is not None]
    names, tuples, runs = labels(record.key.method for record in records), tuples_of(prepared), []
    for record in records:
        if record.key.data_digest == prepared.manifest.content_digest and is_file(
            store.predictions_file(record.key)
        ):
            runs.append(Run(record, names[record.key.method.digest], measure(record, store, tuples)))
        else:
            typer.echo(f"{record.run}: no predictions in the home folder, skipped", err=True)
    written = {
        "runs": [{**settings(run), "run": run.record.run, **run.figures} for run in runs],
        "gains": gains(runs),
    }
    write_text(arguments.out / f"levels-{arguments.dataset}.json", json.dumps(written, indent=1) + "\n")
    typer.echo(json.dumps(written["gains"], indent=1))


def settings(run: Run) -> Row:
    """Return the settings of a run, without its seed."""
    key = run.record.key
    return {
        "domain_set": key.domain_set,
        "backbone": key.backbone.name,
        "method": run.method,
        "indicator": key.indicator,
        "batch_size": key.train["batch_size"],
    }


def tuples_of(prepared: Prepared) -> pl.DataFrame:
    """Return the generator's domain of each test row."""
    table = prepared.read(Split.TEST, [Column.ROW, *prepared.domain_set("default").features])
    return pl.DataFrame({Column.ROW: table[Column.ROW].to_numpy(), TUPLE: prepared.domain_ids(table)})


def measure(record: RunRecord, store: RunStore, tuples: pl.DataFrame) -> dict[str, float]:
    """Return the AUC of a run, the AUCs of levels, and GAUC within the domains of the generator."""
    columns = [Column.ROW, Column.LABEL, Column.SCORE, Column.PROBABILITY]
    with local_copy(store.predictions_file(record.key)) as file:
        predictions = pl.read_parquet(file, columns=columns)
    odds = pl.col(Column.PROBABILITY) / (1 - pl.col(Column.PROBABILITY))
    rows = predictions.join(tuples, on=Column.ROW, validate="1:1").with_columns(
        odds.log().mean().over(TUPLE).alias(TRUTH),
        pl.col(Column.SCORE).mean().over(TUPLE).alias(OWN),
    )

    def of(score: pl.Expr) -> float:
        value = auc(rows[Column.LABEL], rows.select(score).to_series())
        return math.nan if value is None else value

    within = group_metrics(rows[TUPLE], rows[Column.LABEL], rows[Column.SCORE], metrics=[Auc()])
    gauc = GroupTotals.of(within.values[Auc.name], within.rows).mean()
    return {
        "auc": of(pl.col(Column.SCORE)),
        "auc_of_own_levels": of(pl.col(OWN)),
        "auc_of_true_levels": of(pl.col(TRUTH)),
        "auc_with_true_levels": of(pl.col(TRUTH) + pl.col(Column.SCORE) - pl.col(OWN)),
        "gauc_within": gauc if gauc is not None else math.nan,
    }


def gains(runs: Sequence[Run]) -> list[Row]:
    """Return the mean gain over plain with its standard error over seeds; `None` for a single seed."""

    def baseline_key(run: Run) -> tuple[str, str, int]:
        """Return the key that a run shares with its baseline; plain does not depend on the domain set."""
        key = run.record.key
        return key.backbone.digest, json.dumps(key.train, sort_keys=True), key.seed

    plain = {baseline_key(run): run for run in runs if run.method == "plain"}
    rows: dict[str, list[tuple[Run, Run]]] = defaultdict(list)
    for run in runs:
        base = plain.get(baseline_key(run))
        if base is not None and run.method != "plain":
            backbone, train, _ = baseline_key(run)
            rows[json.dumps([settings(run), backbone, train])].append((run, base))
    return [
        {**settings(pairs[0][0]), "seeds": len(pairs)}
        | {
            figure: _mean([run.figures[figure] - base.figures[figure] for run, base in pairs])
            for figure in FIGURES
        }
        for _, pairs in sorted(rows.items())
    ]


def _mean(values: Sequence[float]) -> list[float | None]:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    return [round(float(np.mean(values)), 4), None if error is None else round(float(error), 4)]


if __name__ == "__main__":
    main()
