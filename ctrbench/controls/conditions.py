"""Which methods condition on domains: found by trying, so that a method declares nothing.

A method is trained for a few steps on synthetic rows with the fields of the data, twice: the second time the domains
that it reads are those of other rows, while inputs and labels are the same. If any score differs, the method conditions
on domains: by e_d, by parameters or batches per domain, in its learner, or in any other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ctrbench.data.batches import SplitData
from ctrbench.failures import is_failure
from ctrbench.names import Column
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.train.config import TrainConfig
from ctrbench.train.stepper import Stepper

if TYPE_CHECKING:
    from ctrbench.plugins.base import Method

NUM_DOMAINS = 3
ROWS = 64 * NUM_DOMAINS
BATCH_ROWS = 48
LARGEST_SIZE = 6
"""Largest number of ids of a field; larger fields are cut to it."""
SEED = 1


def conditions_on_domains(method: Method, plan: Plan, schema: Schema) -> bool:
    """Return whether results of a method on a backbone's plan depend on the domains, other than as inputs in z.

    A method that fails on the synthetic rows is taken to condition on domains: its run will show the error.
    """
    small = _reduced(schema)
    rows = _synthetic_rows(small)
    try:
        own, other = (_scores(method, plan, small, data) for data in (rows, _with_domains_of_others(rows)))
    except BaseException as problem:
        if not is_failure(problem):
            raise
        return True
    return any(not np.array_equal(own[name], other[name], equal_nan=True) for name in own)


def _reduced(schema: Schema) -> Schema:
    """Return a schema with the same fields, few ids and few domains, whose domains are copies."""
    return replace(
        schema,
        fields=tuple(replace(field, size=min(field.size, LARGEST_SIZE)) for field in schema.fields),
        num_domains=NUM_DOMAINS,
        indicator_rows=(0, *([ROWS // NUM_DOMAINS] * NUM_DOMAINS)),
        base_rate=0.5,
        has_copies=True,
    )


def _synthetic_rows(schema: Schema) -> SplitData:
    generator = np.random.default_rng(SEED)

    def draw(field: FieldShape, num: int) -> np.ndarray:
        return generator.integers(min(1, field.size - 1), field.size, num).astype(np.int32)

    single = [draw(field, ROWS) for field in schema.single_fields]
    domain_B = np.arange(ROWS) % NUM_DOMAINS + 1
    copies = [1 + (domain_B + i) % max(1, field.size - 1) for i, field in enumerate(schema.copies)]
    return SplitData(
        ids_BF=torch.from_numpy(np.stack(single, axis=1) if single else np.empty((ROWS, 0), np.int32)),
        bags=tuple(
            (torch.from_numpy(draw(field, 2 * ROWS)), 2 * torch.arange(ROWS + 1))
            for field in schema.bag_fields
        ),
        numeric_BK=torch.from_numpy(
            generator.standard_normal((ROWS, len(schema.numeric_fields))).astype(np.float32)
        ),
        domain_B=torch.from_numpy(domain_B),
        indicator_B=torch.from_numpy(domain_B.copy()),
        label_B=torch.from_numpy(generator.integers(0, 2, ROWS).astype(np.float32)),
        copies_BD=torch.from_numpy(np.stack(copies, axis=1).astype(np.int32)),
        row=np.arange(ROWS),
        user=None,
        probability=None,
    )


def _with_domains_of_others(data: SplitData) -> SplitData:
    """Return the rows with everything that tells domains apart from other rows."""
    rows = torch.from_numpy(np.random.default_rng(SEED + 1).permutation(len(data)))
    assert data.copies_BD is not None
    return replace(
        data,
        domain_B=data.domain_B[rows],
        indicator_B=data.indicator_B[rows],
        copies_BD=data.copies_BD[rows],
    )


def _scores(method: Method, plan: Plan, schema: Schema, data: SplitData) -> Mapping[str, np.ndarray]:
    """Return the scores of the rows after one epoch on them."""
    estimator = method.as_estimator()
    if estimator is not None:
        return {Column.SCORE: estimator.fit(data, data, schema=schema, seed=SEED).logits(data)}
    config = TrainConfig(embedding_size=schema.embedding_size, batch_size=BATCH_ROWS, epochs=1, lr=0.01)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        model = CTRModel(method.apply(plan), schema, seed=SEED)
        stepper = Stepper(model, method.learner(), config, planned_steps=ROWS // BATCH_ROWS)
        order = stepper.order(data, np.random.default_rng(SEED))
        for batch in data.batches(order):
            stepper.step(batch)
        stepper.optimizer.flush()
        stepper.learner.select(model, data, data)
        return stepper.learner.score(model, data)
