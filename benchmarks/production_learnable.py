"""Share of the Production-scale logit that fields explain without ids: `python benchmarks/production_learnable.py`.

The ladder of `production_acceptance.py` uses the exact components of the logit. Here boosted trees regress each
component, without the noise of clicks, on the fields that models read, except user and item ids, which have few rows
each. The trees get the effects of domain and profile combined with the category in closed form, from the tables of the
generator. The result is the part of each component that remains after averaging over users and items.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import typer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import TargetEncoder

from ctrbench.names import Column
from ctrbench.storage.files import write_text
from ctrbench.synthetic.production.block import BLOCK_ROWS
from ctrbench.synthetic.production.calibration import calibrate, part_weights
from ctrbench.synthetic.production.clicks import Component
from ctrbench.synthetic.production.generator import Production, ProductionField, Values
from ctrbench.synthetic.production.spec import spec_of_size
from ctrbench.synthetic.production.truth import V_DOMAIN

Rows = Mapping[str, Values]

MOST_VALUES = 250
"""Largest number of ids of a categorical input of the trees; larger fields are target-encoded with cross-fitting."""
IDS = frozenset({"user_id", "item_id"})
PAIRS = ("taste", "structured", "idiosyncratic")
STEPS = (
    Component.DOMAIN,
    Component.LEVEL,
    Component.TASTE,
    Component.STRUCTURED,
    Component.IDIOSYNCRATIC,
)


def main() -> None:
    """Run the regressions, print the results and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="20m")
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="number of training rows, and of test rows"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/reports/scale"))
    arguments = parser.parse_args()
    spec = spec_of_size(arguments.size)
    results = learnable(Production(spec, calibrate(spec)), arguments.rows)
    write_text(arguments.out / "learnable.json", json.dumps(results, indent=1) + "\n")
    typer.echo(json.dumps(results, indent=1))


def learnable(data: Production, num_rows: int) -> dict[str, dict[str, float]]:
    """Return the share of each component's variance that fields explain, and AUCs of sums of known components."""
    fields = [field for field in data.fields if field.name not in IDS and field.kind != "sequence"]
    columns = [Column.LABEL, *(field.name for field in fields), *STEPS]
    middle, end = data.spec.rows // 2, data.spec.rows
    train, test = (
        {**data.rows(stop - num_rows, stop, columns), **pairs(data, stop - num_rows, stop)}
        for stop in (middle, end)
    )
    predicted = {part: regress(train, test, fields, part) for part in STEPS[1:]}
    weights = dict(zip(STEPS, [math.sqrt(V_DOMAIN), *part_weights(data.spec)[: len(STEPS) - 1]], strict=True))
    return {
        "r2": {
            part: round(1 - float(np.mean((test[part] - predicted[part]) ** 2) / np.var(test[part])), 4)
            for part in predicted
        },
        "auc_of_parts_known": aucs(test, {part: weights[part] * test[part] for part in STEPS}),
        "auc_of_parts_told_by_fields": aucs(
            test, {part: weights[part] * predicted.get(part, test[part]) for part in STEPS}
        ),
    }


def pairs(data: Production, start: int, stop: int) -> dict[str, Values]:
    """Return the expected effect of the category's content in each row's domain and profile, up to scale."""
    values: dict[str, list[Values]] = {name: [] for name in PAIRS}
    for begin in range(start, stop, BLOCK_ROWS):
        block = data.block(begin, min(begin + BLOCK_ROWS, stop))
        truth, content_BK = block.world.truth, block.world.truth.content_CK[block.category]
        taste_BT = truth.taste_PT[block.profile]
        values["taste"].append((taste_BT * content_BK[:, : taste_BT.shape[1]]).sum(1))
        values["structured"].append((truth.structured_DK[block.domain] * content_BK).sum(1))
        values["idiosyncratic"].append((truth.idiosyncratic_DK[block.domain] * content_BK).sum(1))
    return {name: np.concatenate(blocks) for name, blocks in values.items()}


def regress(
    train: Rows, test: Rows, fields: Sequence[ProductionField], part: Component
) -> npt.NDArray[np.float64]:
    """Return predictions of boosted trees for a component of the logit on the test rows."""
    many = [field.name for field in fields if field.num_ids > MOST_VALUES]
    others = [*(field.name for field in fields if field.num_ids <= MOST_VALUES), *PAIRS]
    means = TargetEncoder(target_type="continuous")
    encoded = means.fit_transform(matrix(train, many), train[part]), means.transform(matrix(test, many))
    inputs = [
        np.hstack([matrix(rows, others), more]) for rows, more in zip((train, test), encoded, strict=True)
    ]
    categorical = [i for i, name in enumerate(others) if train[name].dtype.kind == "i"]
    trees = HistGradientBoostingRegressor(
        max_iter=300, learning_rate=0.2, categorical_features=categorical, random_state=0
    )
    predictions: npt.NDArray[np.float64] = trees.fit(inputs[0], train[part]).predict(inputs[1])
    return predictions


def matrix(rows: Rows, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return columns as a matrix (rows, columns)."""
    return np.stack([rows[name].astype(np.float32) for name in names], axis=1)


def aucs(test: Rows, logits: Mapping[Component, Values]) -> dict[str, float]:
    """Return the AUC of the cumulative sum of components after each step."""
    sums = np.cumsum(list(logits.values()), axis=0)
    return {
        f"up to {part.removeprefix('component_')}": round(float(roc_auc_score(test[Column.LABEL], total)), 4)
        for part, total in zip(logits, sums, strict=True)
    }


if __name__ == "__main__":
    main()
