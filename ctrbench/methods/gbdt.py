"""GBDT: gradient-boosted trees on the same fields, without embeddings and without gradients.

Paper: none, the reference from outside neural networks; scikit-learn's HistGradientBoostingClassifier
Year: none

Conditions on: the domain features, as inputs among others
Grows with domains: nothing

    s = s_0 + Σ_t tree_t(f),   t up to the number of trees with the best dev AUC; later trees are dropped

What the trees see, f, is made of training rows alone. Up to 255 ids: the id itself, which trees split in any two sets.
More ids: the training rows of the value, and its click rate. Buckets of a number: their order, the unseen one missing.
Lists: their length and the mean click rate of their values; missing if empty. Numbers as they are. A value's rate is

    (clicks + κ rate of all) / (rows + κ),

over all training rows for rows to be scored, and for a training row over the rows before it in time (rows of equal
time, or all where there is none, count in raw order), so its label is no part of its own input, nor that of rows which
share it later. Leaving out only the row itself would leak the label: among rows of one value, those clicked would have
the lower rate. A value twice in a row's list counts twice in later rows. Ids beyond the training split are categories
the trees have not seen, and go where more rows went.

Readings: METHODS has no section on trees. The seed chooses the 200,000 rows that bin edges are taken from, so with
fewer training rows all seeds agree. The parameters of a record are the leaves, one learned number each; splits are not
counted. The embedding size, batch size, epochs and learning rate of the run play no part. Training rows' rates come
from fewer rows than those of rows to be scored, the price of not leaking.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctrbench.extend import Estimator, Field, Fitted, Schema, SplitData, dev_auc

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

Counted = tuple[np.ndarray, np.ndarray]
"""Rows and clicks."""
Count = Callable[[Counted, np.ndarray, np.ndarray], Counted]
"""From what was counted of all values in training, ids and their rows, to what counts for each of the ids."""
MOST_CATEGORIES = 255
"""Ids, the unseen one included, up to which a field's ids are categories; the most that the trees can take."""
LEAST_RATE = 1e-6
"""Of a training split without clicks, or with nothing else."""


class Gbdt(Estimator):
    """Trees on ids, counts and click rates."""

    max_trees: int = Field(default=200, ge=1)
    """Trees that are fitted; dev chooses how many of them are used."""
    learning_rate: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    """Share of each tree's leaves that is added; the run's learning rate is not for trees."""
    leaves: int = Field(default=31, ge=2)
    """Leaves of a tree at most."""
    leaf_rows: int = Field(default=20, ge=1)
    """Training rows of a leaf at least."""
    smoothing: float = Field(default=20.0, gt=0.0, allow_inf_nan=False)
    """κ, the rows of the whole that each value's click rate is mixed with."""

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
        seen = features.of_training(train)
        with _as_many_threads_as_torch():
            trees.fit(seen, label)
            num_trees = _best_number(trees, features.of(dev), dev)
        fitted = _staged(trees, seen, num_trees)
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
    """One class alone teaches trees nothing."""
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
    """Trees, and what their inputs are made of."""

    features: Features
    trees: HistGradientBoostingClassifier | None
    constant: float
    """The logit of all rows where there are no trees."""

    def logits(self, data: SplitData) -> np.ndarray:
        """Return the sum of the chosen trees for each row."""
        if self.trees is None:
            return np.full(len(data), self.constant, dtype=np.float32)
        return _staged(self.trees, self.features.of(data), self.steps).astype(np.float32)


def _staged(trees: HistGradientBoostingClassifier, seen_BN: np.ndarray, num_trees: int) -> np.ndarray:
    """Return the logits that the first trees add up to."""
    with _as_many_threads_as_torch():
        logits: np.ndarray = next(islice(trees.staged_decision_function(seen_BN), num_trees - 1, None))
    return logits.ravel()


def _best_number(trees: HistGradientBoostingClassifier, seen_BN: np.ndarray, dev: SplitData) -> int:
    """Return the number of trees with the best dev AUC, the smallest of equals; by log-loss where dev is one class."""
    label = dev.label_B.cpu().numpy()
    scores = []
    for logits in trees.staged_decision_function(seen_BN):
        area = dev_auc(dev, logits.ravel())
        scores.append(-_logloss(label, logits.ravel()) if area is None else area)
    return int(np.argmax(scores)) + 1


def _logloss(label_B: np.ndarray, logit_B: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0.0, logit_B) - label_B * logit_B))


def _as_many_threads_as_torch() -> AbstractContextManager[object]:
    """Hold the trees' loops to the run's threads; scikit-learn has its own, which torch's setting does not reach."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[object] = threadpool_limits(torch.get_num_threads(), user_api="openmp")
    return limits


class Features:
    """What trees see of rows: a column or two for each field, all learned from training rows."""

    def __init__(self, schema: Schema, train: SplitData, smoothing: float) -> None:
        self.schema, self.smoothing = schema, smoothing
        self.is_wide = [
            field.kind != "numeric" and field.size > MOST_CATEGORIES for field in schema.single_fields
        ]
        label = train.label_B.cpu().numpy().astype(np.float64)
        self.rate = float(np.clip(label.mean(), LEAST_RATE, 1.0 - LEAST_RATE))
        self.singles = [
            _totals(_ids(train, place), label, field.size) for place, field in enumerate(schema.single_fields)
        ]
        self.bags = [
            _totals(values, label[row_n], field.size)
            for field, (values, row_n) in zip(schema.bag_fields, map(_flat, train.bags), strict=True)
        ]

    @property
    def is_category(self) -> np.ndarray:
        """Which columns hold ids as they are."""
        columns = [
            flag
            for field, is_wide in zip(self.schema.single_fields, self.is_wide, strict=True)
            for flag in ([False, False] if is_wide else [field.kind != "numeric"])
        ]
        others = 2 * len(self.schema.bag_fields) + len(self.schema.numeric_fields)
        return np.array(columns + [False] * others, dtype=bool)

    def of(self, data: SplitData) -> np.ndarray:
        """Return the columns of rows to be scored, from all training rows."""
        return self._columns(data, lambda totals, ids_n, row_n: (totals[0][ids_n], totals[1][ids_n]))

    def of_training(self, train: SplitData) -> np.ndarray:
        """Return the columns of the training rows, rates from the rows before each."""
        label = train.label_B.cpu().numpy().astype(np.float64)
        return self._columns(train, lambda _totals, ids_n, row_n: earlier(ids_n, row_n, label[row_n]))

    def _columns(self, data: SplitData, count: Count) -> np.ndarray:
        columns: list[np.ndarray] = []
        rows = np.arange(len(data))
        for place, field in enumerate(self.schema.single_fields):
            ids = _ids(data, place)
            if self.is_wide[place]:
                totals = self.singles[place]
                columns += [totals[0][ids], self._smoothed(*count(totals, ids, rows))]
            else:
                columns.append(np.where(ids > 0, ids, np.nan) if field.kind == "numeric" else ids)
        for totals, bag in zip(self.bags, data.bags, strict=True):
            values, row_n = _flat(bag)
            length = np.bincount(row_n, minlength=len(data))
            total = np.bincount(row_n, self._smoothed(*count(totals, values, row_n)), minlength=len(data))
            columns += [length, np.divide(total, length, out=np.full(len(data), np.nan), where=length > 0)]
        seen_BN: np.ndarray = np.column_stack([*columns, data.numeric_BK.cpu().numpy()]).astype(np.float64)
        return seen_BN

    def _smoothed(self, rows: np.ndarray, clicks: np.ndarray) -> np.ndarray:
        smoothed: np.ndarray = (clicks + self.smoothing * self.rate) / (rows + self.smoothing)
        return smoothed


def _ids(data: SplitData, place: int) -> np.ndarray:
    ids: np.ndarray = data.ids_BF[:, place].cpu().numpy().astype(np.int64)
    return ids


def _flat(bag: tuple[torch.Tensor, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of all lists, and the row of each."""
    values, offsets = (one.cpu().numpy().astype(np.int64) for one in bag)
    return values, np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _totals(ids_n: np.ndarray, click_n: np.ndarray, size: int) -> Counted:
    return np.bincount(ids_n, minlength=size), np.bincount(ids_n, click_n, minlength=size)


def earlier(ids_n: np.ndarray, row_n: np.ndarray, click_n: np.ndarray) -> Counted:
    """Return how often each id occurs in earlier rows, and with how many clicks; rows ascend."""
    order = np.argsort(ids_n, kind="stable")
    ids, rows = ids_n[order], row_n[order]
    clicks = np.cumsum(click_n[order]) - click_n[order]
    is_new_id = np.diff(ids, prepend=-1) != 0
    is_new = is_new_id | (np.diff(rows, prepend=-1) != 0)
    place = np.arange(len(ids))
    of_id = np.maximum.accumulate(np.where(is_new_id, place, 0))
    of_row = np.maximum.accumulate(np.where(is_new, place, 0))
    before, clicked = np.empty(len(ids)), np.empty(len(ids))
    before[order], clicked[order] = of_row - of_id, clicks[of_row] - clicks[of_id]
    return before, clicked
