from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from ctrbench.controls.conditions import conditions_on_domains
from ctrbench.extend import Estimator, Fitted, Learner, Method, Plan, SplitData
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select

READS = [
    "adasparse", "apg[condition=group]", "biasnet", "epnet", "m2m", "mmoe", "mulann", "pcgrad", "plain[aux=domain]",
    "plain[norm=pn]", "separate", "star", "domain_embedding",
]  # fmt: skip
IGNORES = ["plain", "plain[norm=bn]", "no_domain", "ppnet", "apg[condition=self]"]


def conditions(method: Method, schema: Schema) -> bool:
    return conditions_on_domains(method, select("backbones", "dnn[hidden=8-4]").value.full_plan(), schema)


@pytest.mark.parametrize("selector", [*READS, *IGNORES])
def test_methods_that_read_domains_are_found(schema: Schema, selector: str) -> None:
    state = torch.get_rng_state()
    assert conditions(select("methods", selector).value, schema) is (selector in READS)
    assert torch.equal(torch.get_rng_state(), state)


class Batches(Method):
    """Plain with batches of one domain."""

    batching: Literal["mixed", "domain"]

    def rewrite(self, plan: Plan) -> Plan:
        return plan

    def learner(self) -> Learner:
        return Learner(batching=self.batching)


def test_batches_of_one_domain_are_found(schema: Schema) -> None:
    assert conditions(Batches(batching="domain"), schema)
    assert not conditions(Batches(batching="mixed"), schema)


class Rates(Estimator):
    """The click rate of each domain, or of all rows."""

    by_domain: bool

    def fit(self, train: SplitData, dev: SplitData, *, schema: Schema, seed: int) -> Fitted:
        group = train.domain_B.numpy() * self.by_domain
        clicks = np.bincount(group, train.label_B.numpy())
        return FittedRates(
            steps=1, num_parameters=1, loss=0.0, notes={}, rate=clicks / np.bincount(group).clip(1),
            by_domain=self.by_domain,
        )  # fmt: skip


class FittedRates(Fitted):
    rate: np.ndarray
    by_domain: bool

    def __init__(self, **values: object) -> None:
        vars(self).update(values)

    def logits(self, data: SplitData) -> np.ndarray:
        return self.rate[data.domain_B.numpy() * self.by_domain]


def test_an_estimator_that_reads_domains_is_found(schema: Schema) -> None:
    assert conditions(Rates(by_domain=True), schema)
    assert not conditions(Rates(by_domain=False), schema)


class Broken(Batches):
    """A method that cannot be built."""

    def apply(self, plan: Plan) -> Plan:
        raise KeyError("no such stage")


class Stopped(Broken):
    """A method that is interrupted."""

    def apply(self, plan: Plan) -> Plan:
        raise KeyboardInterrupt


def test_a_method_that_fails_counts_as_one_that_reads_domains(schema: Schema) -> None:
    assert conditions(Broken(batching="mixed"), schema)
    with pytest.raises(KeyboardInterrupt):
        conditions(Stopped(batching="mixed"), schema)
