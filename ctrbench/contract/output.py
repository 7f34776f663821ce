"""Rules about the range of logits: their initial values, and both signs after training."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ctrbench.contract.case import EPOCHS, Case, Training
from ctrbench.contract.rows import SEED
from ctrbench.contract.rule import TOLERANCE, rule
from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel

BASE_RATES = (0.4, 0.2)
"""Click rates for which initial logits are compared."""
ONE_CLASS = ((0.0, -1.0, "negative"), (1.0, 1.0, "positive"))
"""Label of all rows, and the sign that some logit must then have."""


@rule(
    "initial logits", "Initial logits differ from the backbone's by no more than starts_as_backbone declares."
)
def initial_logits(case: Case) -> str | None:
    """Compare untrained models with and without the method, both with its settings of every method except `aux`."""
    claim = case.method.starts_as_backbone
    if claim is None:
        return None
    batch, method, norm = case.test.slice(0, len(case.test)), case.method, case.method.norm_stage()
    base = replace(method.add_regularization(case.plan()), common=method.common_settings())
    base = base.before_tower(norm) if norm else base
    with torch.no_grad():
        plain_B = CTRModel(base, case.schema(), seed=SEED).eval()(batch)
        difference = float((case.build().eval()(batch) - plain_B).abs().max())
    if not difference <= claim:
        return (
            f"expected initial logits within {claim:g} of the backbone's, as starts_as_backbone declares, but they "
            f"differ by {difference:.1e}; initialize factors at 1 and summands at 0, and "
            "return the bias of a stage that ends the head from output_bias"
        )
    return None


@rule("base rate", "Initial logits follow the click rate of the training rows.")
def base_rate(case: Case) -> str | None:
    """Compare untrained models for two click rates: every logit must change by the difference of the log odds."""
    batch, odds = case.test.slice(0, len(case.test)), [math.log(rate / (1.0 - rate)) for rate in BASE_RATES]
    models = [case.build(base_rate=rate).eval() for rate in BASE_RATES]
    with torch.no_grad():
        first_B, second_B = (model(batch) for model in models)
    expected, changes_B = odds[1] - odds[0], second_B - first_B
    worst = float(changes_B[(changes_B - expected).abs().argmax()])
    if not abs(worst - expected) <= TOLERANCE * max(1.0, float(first_B.abs().max())):
        return (
            f"expected initial logits to change by {expected:.2f}, as log odds do, where the click rate is "
            f"{BASE_RATES[1]:g} in place of {BASE_RATES[0]:g}, but one changed by {worst:.2f}; "
            f"{_output_remedy(models[0])}"
        )
    return None


def _output_remedy(model: CTRModel) -> str:
    last = model.networks[0].head.last
    if last is None:
        return "end the plan's head with a stage that has an output bias, such as Dense(name='head', width=1)"
    if last.output_bias is None:
        return (
            f"the head ends in {type(last).__name__}, which has no output bias: end it with a stage that has one, "
            "such as Dense, or return the bias from output_bias"
        )
    return f"add the output_bias of {type(last).__name__}, which ends the head, to the logit as it is"


@rule("both signs", "Logits can be negative as well as positive.")
def both_signs(case: Case) -> str | None:
    """Train on labels of one class and look for a logit of its sign."""
    for label, sign, word in ONE_CLASS:
        training = Training(case, base_rate=0.5, lr=0.05)
        data = replace(case.train, label_B=torch.full_like(case.train.label_B, label))
        if not any(_reaches_sign(training, data, epoch, sign) for epoch in range(EPOCHS)):
            return (
                f"expected a {word} logit after training on labels {label:g} alone, but there is none; the output "
                "must be linear, without an activation"
            )
    return None


def _reaches_sign(training: Training, data: SplitData, epoch: int, sign: float) -> bool:
    """Train for an epoch and return whether any logit has the sign."""
    training.run(training.batches(data, epoch))
    training.optimizer.flush()
    return bool((sign * training.logits(data.slice(0, len(data))) > 0).any())
