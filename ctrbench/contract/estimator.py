"""Rules that concern estimators only, which have neither a plan nor training steps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ctrbench.contract.case import Case
from ctrbench.contract.output import ONE_CLASS
from ctrbench.contract.rows import NUM_SHOPS, changed_columns, make_test_rows, make_training_rows, take_rows
from ctrbench.contract.rule import largest_difference, list_names, rule


@rule(
    "finite training",
    "The training loss and all logits are finite, and logits have shape (B,).",
    is_required=True,
)
def finite_fit(case: Case) -> str | None:
    """Fit the estimator and check its loss and its logits."""
    fitted, num_rows = case.fitted, len(case.test)
    logits = fitted.logits(case.test)
    if logits.shape != (num_rows,) or not np.isfinite(logits).all():
        return f"expected finite logits of shape ({num_rows},), but got shape {logits.shape}, or values not finite"
    if not math.isfinite(fitted.loss):
        return f"expected a finite training loss, but it is {fitted.loss}"
    return None


@rule("batch of one", "A batch of one row can be scored.")
def batch_of_one(case: Case) -> str | None:
    """Score one row of each shop."""
    for row in range(NUM_SHOPS + 1):
        shape = case.score(take_rows(case.test, [row])).shape
        if shape != (1,):
            return f"expected one row to give logits of shape (1,), but got {shape}"
    return None


@rule("inputs unchanged", "Fitting and scoring do not change the rows in place.")
def inputs_unchanged(case: Case) -> str | None:
    """Fit and score, and compare the rows with new ones."""
    train, test = make_training_rows(), make_test_rows()
    case.fit(train).logits(test)
    changed = [*changed_columns(train, make_training_rows()), *changed_columns(test, make_test_rows())]
    return f"expected all rows to stay unchanged, but {list_names(changed)} changed" if changed else None


@rule("label independence", "Logits do not depend on the labels of the scored rows.")
def label_independence(case: Case) -> str | None:
    """Score rows with their labels and with inverted labels."""
    inverted = replace(case.test, label_B=1.0 - case.test.label_B)
    if not np.array_equal(case.fitted.logits(inverted), case.fitted.logits(case.test)):
        return "expected logits not to depend on the labels of the scored rows, but they do"
    return None


@rule("seed", "The same seed gives the same fit.")
def seed(case: Case) -> str | None:
    """Fit twice with different global random states."""
    logits = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        logits.append(case.fit(case.train).logits(case.test))
    difference = largest_difference(*logits)
    return (
        f"expected the same fit from the same seed, but logits differ by {difference:.1e}"
        if difference
        else None
    )


@rule("both signs", "Logits can be negative as well as positive.")
def both_signs(case: Case) -> str | None:
    """Fit to labels of one class and look for a logit of its sign."""
    for label, sign, word in ONE_CLASS:
        data = replace(case.train, label_B=torch.full_like(case.train.label_B, label))
        if not (sign * case.fit(data).logits(data) > 0).any():
            return f"expected a {word} logit after fitting to labels {label:g} alone, but there is none"
    return None
