"""`python benchmarks/production_levels.py RESULTS DATASET`: what of an AUC is the level of domains, what lies within.

Where the true click probability is known, so is the true level of each of the generator's domains (scenario × position
× profile): the mean of its true logits. Whatever domains a run was given, the AUC of its own means of these is compared
with that of the true ones, its deviations from them are judged with the true levels in place of its own, and GAUC is
taken within them. Gains are over plain of the same backbone and seed. Predictions must still be in the home folder.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import typer

from ctrbench.data.shards import home_folder, open_prepared
from ctrbench.eval.metrics import auc, gauc, group_metrics
from ctrbench.files import write_text
from ctrbench.names import Column, Split
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore

TUPLE, TRUTH, OWN = "tuple", "truth", "own"
FIGURES = ("auc", "auc_of_own_levels", "auc_with_true_levels", "gauc_within")

Found = dict[str, object]


def main() -> None:
    """Measure all finished runs of a dataset, print gains over plain, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, default=Path("docs/results/scale"))
    arguments = parser.parse_args()
    store, tuples = RunStore(results=arguments.results, home=home_folder()), tuples_of(arguments.dataset)
    found: list[Found] = []
    for record in store.records(arguments.dataset):
        if record.result is not None and Path(str(store.predictions_file(record.key))).exists():
            found.append(measure(record, store, tuples))
        else:
            typer.echo(f"{record.run}: no predictions here, left out", err=True)
    written = {"runs": found, "gains": gains(found)}
    write_text(arguments.out / f"levels-{arguments.dataset}.json", json.dumps(written, indent=1) + "\n")
    typer.echo(json.dumps(written["gains"], indent=1))


def tuples_of(dataset: str) -> pl.DataFrame:
    """Return the generator's domain of each test row."""
    prepared = open_prepared(dataset)
    features = prepared.domain_set("default").features
    table = prepared.read(Split.TEST, [Column.ROW, *features])
    return pl.DataFrame({Column.ROW: table[Column.ROW].to_numpy(), TUPLE: prepared.domain_ids(table)})


def measure(record: RunRecord, store: RunStore, tuples: pl.DataFrame) -> Found:
    """Return what a run was, its AUC, and the AUCs of levels and of what is within the generator's domains."""
    odds = pl.col(Column.PROBABILITY) / (1 - pl.col(Column.PROBABILITY))
    rows = (
        pl.read_parquet(
            str(store.predictions_file(record.key)),
            columns=[Column.ROW, Column.LABEL, Column.SCORE, Column.PROBABILITY],
        )
        .join(tuples, on=Column.ROW, validate="1:1")
        .with_columns(
            odds.log().mean().over(TUPLE).alias(TRUTH),
            pl.col(Column.SCORE).mean().over(TUPLE).alias(OWN),
        )
    )

    def of(score: pl.Expr) -> float | None:
        return auc(rows[Column.LABEL], rows.select(score).to_series())

    return {
        "run": record.run,
        "domain_set": record.key.domain_set,
        "backbone": record.key.backbone.name,
        "method": record.key.method.name,
        "indicator": record.key.indicator,
        "seed": record.key.seed,
        "auc": of(pl.col(Column.SCORE)),
        "auc_of_own_levels": of(pl.col(OWN)),
        "auc_of_true_levels": of(pl.col(TRUTH)),
        "auc_with_true_levels": of(pl.col(TRUTH) + pl.col(Column.SCORE) - pl.col(OWN)),
        "gauc_within": gauc(group_metrics(rows[TUPLE], rows[Column.LABEL], rows[Column.SCORE])).value,
    }


def gains(found: Sequence[Found]) -> list[Found]:
    """Return means over seeds of gains over plain with their standard errors, which one seed has not."""
    plain = {(run["backbone"], run["seed"]): run for run in found if run["method"] == "plain"}
    rows: dict[tuple[object, ...], list[Mapping[str, float]]] = defaultdict(list)
    for run in found:
        base = plain.get((run["backbone"], run["seed"]))
        if base is not None and run is not base and run["method"] != "plain":
            name = tuple(run[part] for part in ("backbone", "domain_set", "indicator", "method"))
            rows[name].append({figure: run[figure] - base[figure] for figure in FIGURES})  # type: ignore[operator]
    return [
        dict(zip(("backbone", "domain_set", "indicator", "method"), name, strict=True))
        | {"seeds": len(runs)}
        | {figure: _mean([run[figure] for run in runs]) for figure in FIGURES}
        for name, runs in sorted(rows.items())
    ]


def _mean(values: Sequence[float]) -> list[float | None]:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    return [round(float(np.mean(values)), 4), None if error is None else round(float(error), 4)]


if __name__ == "__main__":
    main()
