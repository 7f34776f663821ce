"""`python benchmarks/production_levels.py RESULTS DATASET`: what of an AUC is the level of domains, what lies within.

Where the true click probability is known, so is each domain's true level: the mean of its true logits. The AUC of a
model's own domain means is compared with that of the true ones, and the model's deviations from its domain means are
judged with the true levels in place of its own. Predictions must still be in the home folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import polars as pl
import typer
from sklearn.metrics import roc_auc_score

from ctrbench.data.shards import home_folder
from ctrbench.files import write_text
from ctrbench.names import Column, Metric
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore

TRUTH, OWN = "truth", "own"


def main() -> None:
    """Measure all finished runs of a dataset, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("docs/results/scale"))
    arguments = parser.parse_args()
    store = RunStore(results=arguments.results, home=home_folder())
    found = []
    for record in store.records(arguments.dataset):
        if record.result is not None and Path(str(store.predictions_file(record.key))).exists():
            found.append(measure(record, store))
        else:
            typer.echo(f"{record.run}: no predictions here, left out", err=True)
    write_text(arguments.out / f"levels-{arguments.dataset}.json", json.dumps(found, indent=1) + "\n")
    typer.echo(json.dumps(found, indent=1))


def measure(record: RunRecord, store: RunStore) -> dict[str, object]:
    """Return AUC and GAUC of a run, and the AUCs of levels and of what is within domains."""
    assert record.result is not None
    odds = pl.col(Column.PROBABILITY) / (1 - pl.col(Column.PROBABILITY))
    rows = pl.read_parquet(
        str(store.predictions_file(record.key)),
        columns=[Column.DOMAIN, Column.LABEL, Column.SCORE, Column.PROBABILITY],
    ).with_columns(
        odds.log().mean().over(Column.DOMAIN).alias(TRUTH),
        pl.col(Column.SCORE).mean().over(Column.DOMAIN).alias(OWN),
    )

    def auc(score: pl.Expr) -> float:
        return round(float(roc_auc_score(rows[Column.LABEL], rows.select(score).to_series())), 4)

    return {
        "run": record.run,
        "domain_set": record.key.domain_set,
        "indicator": record.key.indicator,
        "auc": auc(pl.col(Column.SCORE)),
        "gauc": record.result.test[Metric.GAUC],
        "auc_of_own_levels": auc(pl.col(OWN)),
        "auc_of_true_levels": auc(pl.col(TRUTH)),
        "auc_with_true_levels": auc(pl.col(TRUTH) + pl.col(Column.SCORE) - pl.col(OWN)),
    }


if __name__ == "__main__":
    main()
