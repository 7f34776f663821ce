"""GBDT: gradient-boosted trees on the same fields, without embeddings and gradients.

Paper: none, the reference from outside neural networks; scikit-learn's HistGradientBoostingClassifier
Year: none
Uses: the domain features, as ordinary inputs
Parameters per domain: none

    s = s_0 + Σ_t tree_t(f),   t up to the number of trees with the best dev AUC; later trees are dropped

The features f are computed from training rows only (spec: gbdt-13.5). A field of up to 255 ids: the id itself, which
trees split into any two sets. A field of more ids: the training rows of the value and its click rate. Buckets of a
number: their order, with the unseen one missing. Lists: their length and the mean click rate of their values, missing
for an empty list. Numeric fields: unchanged. The rate of a value is

    (clicks + κ rate of all) / (rows + κ),

over all training rows for rows to be scored, and for a training row over the rows before it in time (rows of equal
time, and all rows of data without time, in raw order). Its label is therefore part of neither its own features nor
those of rows before it. Leaving out only the row itself would leak the label: among rows of one value, clicked ones
would have the lower rate.

Plan: none; the method is an estimator.

Choices: a value that occurs twice in a row's list counts twice in later rows. Ids beyond the training split are
categories that the trees have not seen, and follow the larger branch. The seed chooses the 200,000 rows from which bin
edges are taken, so with fewer training rows all seeds agree. The parameters of a record are the leaves, one number
each; splits are not counted. Embedding size, batch size, epochs and learning rate of the run have no effect.

Limits: rates of training rows are computed from fewer rows than those of scored rows, which is the price of not leaking
labels. All training rows must fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch

from ctrbench.extend import Choices, Estimator, Field, Fitted, LogRange, Schema, SplitData, dev_auc

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

Counted = tuple[np.ndarray, np.ndarray]
"""Rows and clicks."""
Count = Callable[[Counted, np.ndarray, np.ndarray], Counted]
"""Maps the counts of all training values, ids and their rows to the counts of each id."""
MOST_CATEGORIES = 255
"""Largest number of ids, the unseen one included, of a field that enters as categories; a limit of scikit-learn."""
LEAST_RATE = 1e-6
"""Smallest click rate, and smallest rate of rows without a click, of a training split."""


class Gbdt(Estimator):
    """Trees on ids, counts and click rates."""

    max_trees: int = Field(default=200, ge=1, le=10_000)
    """Number of fitted trees; dev chooses how many are used."""
    learning_rate: Annotated[float, LogRange(0.02, 0.3)] = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    """Weight of each tree; the run's learning rate has no effect."""
    leaves: Annotated[int, Choices(15, 31, 63, 127)] = Field(default=31, ge=2, le=65_536)
    """Largest number of leaves per tree."""
    leaf_rows: Annotated[int, Choices(5, 20, 100, 500)] = Field(default=20, ge=1, le=1_000_000)
    """Smallest number of training rows per leaf."""
    smoothing: Annotated[float, LogRange(1.0, 200.0)] = Field(default=20.0, gt=0.0, allow_inf_nan=False)
    """κ, the number of rows at the overall click rate with which a value's rate is mixed."""

    def fit(self, train: SplitData, dev: SplitData, *, schema: Schema, seed: int) -> Fitted:
        """Fit the trees and choose their number on dev."""
        features = Features(schema, train, self.smoothing)
        label = train.label_B.cpu().numpy()
        if label.min() == label.max():
            return _no_trees(features, label)
        from sklearn.ensemble import HistGradientBoostingClassifier

        trees = HistGradientBoostingClassifier(
            max_iter=self.max_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.leaves,
            min_samples_leaf=self.leaf_rows,
            categorical_features=features.is_category,
            early_stopping=False,
            random_state=seed,
        )
        train_BN = features.of_training(train)
        with _as_many_threads_as_torch():
            trees.fit(train_BN, label)
            num_trees = _best_number(trees, features.of(dev), dev)
        fitted = _logits_of_trees(trees, train_BN, num_trees)
        return FittedTrees(
            features=features,
            trees=trees,
            constant=0.0,
            steps=num_trees,
            num_parameters=sum(tree.get_n_leaf_nodes() for (tree,) in trees._predictors[:num_trees]),
            loss=_logloss(label, fitted),
            notes={"trees": num_trees},
        )


def _no_trees(features: Features, label: np.ndarray) -> Fitted:
    """Return a constant for training rows of one class, from which trees learn nothing."""
    constant = float(np.log(features.rate / (1.0 - features.rate)))
    loss = _logloss(label, np.full(len(label), constant))
    return FittedTrees(
        features=features,
        trees=None,
        constant=constant,
        steps=0,
        num_parameters=0,
        loss=loss,
        notes={"trees": 0},
    )


@dataclass(frozen=True, kw_only=True)
class FittedTrees(Fitted):
    """Trees with their features."""

    features: Features
    trees: HistGradientBoostingClassifier | None
    constant: float
    """Logit of all rows where there are no trees."""

    def logits(self, data: SplitData) -> np.ndarray:
        """Return the sum of the chosen trees for each row."""
        if self.trees is None:
            return np.full(len(data), self.constant, dtype=np.float32)
        return _logits_of_trees(self.trees, self.features.of(data), self.steps).astype(np.float32)


def _logits_of_trees(
    trees: HistGradientBoostingClassifier, features_BN: np.ndarray, num_trees: int
) -> np.ndarray:
    """Return the logits of the first trees."""
    with _as_many_threads_as_torch():
        logits: np.ndarray = next(islice(trees.staged_decision_function(features_BN), num_trees - 1, None))
    return logits.ravel()


def _best_number(trees: HistGradientBoostingClassifier, features_BN: np.ndarray, dev: SplitData) -> int:
    """Return the smallest number of trees with the best dev AUC, or log-loss where dev has one class."""
    label = dev.label_B.cpu().numpy()
    scores = []
    for logits in trees.staged_decision_function(features_BN):
        area = dev_auc(dev, logits.ravel())
        scores.append(-_logloss(label, logits.ravel()) if area is None else area)
    return int(np.argmax(scores)) + 1


def _logloss(label_B: np.ndarray, logit_B: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0.0, logit_B) - label_B * logit_B))


def _as_many_threads_as_torch() -> AbstractContextManager[object]:
    """Limit scikit-learn's threads, which torch's setting does not affect, to the run's."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[object] = threadpool_limits(torch.get_num_threads(), user_api="openmp")
    return limits


class Features:
    """Input columns of the trees, one or two per field, computed from training rows."""

    def __init__(self, schema: Schema, train: SplitData, smoothing: float) -> None:
        self.schema, self.smoothing = schema, smoothing
        self.is_wide = [
            field.kind != "numeric" and field.size > MOST_CATEGORIES for field in schema.single_fields
        ]
        label = train.label_B.cpu().numpy().astype(np.float64)
        self.rate = float(np.clip(label.mean(), LEAST_RATE, 1.0 - LEAST_RATE))
        self.singles = [
            _count_by_id(_field_ids(train, i), label, field.size)
            for i, field in enumerate(schema.single_fields)
        ]
        self.bags = [
            _count_by_id(values, label[row_n], field.size)
            for field, (values, row_n) in zip(schema.bag_fields, map(_flatten_bag, train.bags), strict=True)
        ]

    @property
    def is_category(self) -> np.ndarray:
        """Whether each column holds ids as categories."""
        columns = [
            flag
            for field, is_wide in zip(self.schema.single_fields, self.is_wide, strict=True)
            for flag in ([False, False] if is_wide else [field.kind != "numeric"])
        ]
        others = 2 * len(self.schema.bag_fields) + len(self.schema.numeric_fields)
        return np.array(columns + [False] * others, dtype=bool)

    def of(self, data: SplitData) -> np.ndarray:
        """Return the columns of rows to be scored, with rates of all training rows."""
        return self._feature_columns(data, lambda totals, ids_n, row_n: (totals[0][ids_n], totals[1][ids_n]))

    def of_training(self, train: SplitData) -> np.ndarray:
        """Return the columns of the training rows, with rates of the rows before each."""
        label = train.label_B.cpu().numpy().astype(np.float64)
        return self._feature_columns(
            train, lambda _count_by_id, ids_n, row_n: earlier(ids_n, row_n, label[row_n])
        )

    def _feature_columns(self, data: SplitData, count: Count) -> np.ndarray:
        columns: list[np.ndarray] = []
        rows = np.arange(len(data))
        for i, field in enumerate(self.schema.single_fields):
            ids = _field_ids(data, i)
            if self.is_wide[i]:
                totals = self.singles[i]
                columns += [totals[0][ids], self._smoothed_ctr(*count(totals, ids, rows))]
            else:
                columns.append(np.where(ids > 0, ids, np.nan) if field.kind == "numeric" else ids)
        for totals, bag in zip(self.bags, data.bags, strict=True):
            values, row_n = _flatten_bag(bag)
            length = np.bincount(row_n, minlength=len(data))
            total = np.bincount(row_n, self._smoothed_ctr(*count(totals, values, row_n)), minlength=len(data))
            columns += [length, np.divide(total, length, out=np.full(len(data), np.nan), where=length > 0)]
        features_BN: np.ndarray = np.column_stack([*columns, data.numeric_BK.cpu().numpy()])
        return features_BN.astype(np.float64)

    def _smoothed_ctr(self, rows: np.ndarray, clicks: np.ndarray) -> np.ndarray:
        smoothed: np.ndarray = (clicks + self.smoothing * self.rate) / (rows + self.smoothing)
        return smoothed


def _field_ids(data: SplitData, column: int) -> np.ndarray:
    ids: np.ndarray = data.ids_BF[:, column].cpu().numpy().astype(np.int64)
    return ids


def _flatten_bag(bag: tuple[torch.Tensor, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of all lists and the row of each value."""
    values, offsets = (tensor.cpu().numpy().astype(np.int64) for tensor in bag)
    return values, np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _count_by_id(ids_n: np.ndarray, click_n: np.ndarray, size: int) -> Counted:
    return np.bincount(ids_n, minlength=size), np.bincount(ids_n, click_n, minlength=size)


def earlier(ids_n: np.ndarray, row_n: np.ndarray, click_n: np.ndarray) -> Counted:
    """Return rows and clicks of each id in earlier rows; `row_n` ascends."""
    order = np.argsort(ids_n, kind="stable")
    ids, rows = ids_n[order], row_n[order]
    clicks = np.cumsum(click_n[order]) - click_n[order]
    is_new_id = np.diff(ids, prepend=-1) != 0
    is_new = is_new_id | (np.diff(rows, prepend=-1) != 0)
    index = np.arange(len(ids))
    id_start = np.maximum.accumulate(np.where(is_new_id, index, 0))
    row_start = np.maximum.accumulate(np.where(is_new, index, 0))
    earlier_rows, earlier_clicks = np.empty(len(ids)), np.empty(len(ids))
    earlier_rows[order] = row_start - id_start
    earlier_clicks[order] = clicks[row_start] - clicks[id_start]
    return earlier_rows, earlier_clicks
