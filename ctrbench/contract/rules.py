"""All rules of the contract, in the order in which they are checked and shown.

A new rule is a function in the module of its topic and a line here.
"""

from __future__ import annotations

from ctrbench.contract import declarations, domains, estimator, output, scoring, state, training
from ctrbench.contract.rule import Rule

RULES: tuple[Rule, ...] = (
    training.finite_training,
    scoring.logits,
    scoring.batch_of_one,
    scoring.row_order,
    scoring.batch_independence,
    scoring.repeatable_scores,
    scoring.unseen_domain,
    domains.absent_domains,
    training.gradients,
    state.inputs_unchanged,
    state.plan_unchanged,
    state.checkpoint,
    state.seed,
    output.base_rate,
    output.initial_logits,
    output.both_signs,
    training.epoch_order,
    training.penalties,
    declarations.declarations,
)
"""Rules for methods."""

ESTIMATOR_RULES: tuple[Rule, ...] = (
    estimator.finite_fit,
    estimator.batch_of_one,
    scoring.scoring_order,
    scoring.batch_independence,
    scoring.equal_scores,
    scoring.unseen_domain,
    estimator.inputs_unchanged,
    estimator.label_independence,
    estimator.seed,
    estimator.both_signs,
)
"""Rules for estimators."""
