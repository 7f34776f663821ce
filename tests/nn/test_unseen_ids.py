"""Ids that a model reads as the unseen one: rare ones, and random ones in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.common import CommonSettings
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner

CITY, AGE, USER = range(3)


@pytest.fixture
def wide(schema: Schema) -> Schema:
    """The shared fields, with more users than the rows have."""
    fields = (replace(field, size=121) if field.name == "user" else field for field in schema.fields)
    return replace(schema, fields=tuple(fields))


def plan_of(**settings: object) -> Plan:
    plan = select("backbones", "dnn[hidden=8-4]").value.full_plan()
    return replace(plan, common=CommonSettings(**settings))  # type: ignore[arg-type]


def changed_ids(data: SplitData, column: int, change: Callable[[torch.Tensor], torch.Tensor]) -> SplitData:
    ids_BF = data.ids_BF.clone()
    ids_BF[:, column] = change(ids_BF[:, column])
    return replace(data, ids_BF=ids_BF)


def test_rare_ids_read_the_row_of_the_unseen_id(schema: Schema, data: SplitData) -> None:
    rows = np.bincount(data.ids_BF[:, USER], minlength=41)
    rare = np.flatnonzero(rows < 8)
    counted = schema.with_rare_ids(8, {"user": rows})
    model = CTRModel(plan_of(min_count=8), counted, seed=1).eval()
    usual = CTRModel(plan_of(), schema, seed=1).eval()
    by_hand = changed_ids(data, USER, lambda ids: ids.masked_fill(torch.isin(ids, torch.from_numpy(rare)), 0))
    assert 0 < len(rare[rare > 0]) < 40
    assert torch.equal(model(data.slice(0, 300)), usual(by_hand.slice(0, 300)))
    assert not torch.equal(model(data.slice(0, 300)), usual(data.slice(0, 300)))


def test_lists_have_rare_ids_too(schema: Schema, data: SplitData) -> None:
    rows = np.where(np.arange(11) % 2, 1, 100)
    model = CTRModel(plan_of(min_count=8), schema.with_rare_ids(8, {"tags": rows}), seed=1).eval()
    usual = CTRModel(plan_of(), schema, seed=1).eval()
    (values, offsets), *_ = data.bags
    by_hand = replace(data, bags=((torch.where(values % 2 == 1, 0, values), offsets),))
    assert torch.equal(model(data.slice(0, 300)), usual(by_hand.slice(0, 300)))


def test_the_row_of_the_unseen_id_learns(schema: Schema, data: SplitData) -> None:
    rows = np.bincount(data.ids_BF[:, USER], minlength=41)
    model = CTRModel(plan_of(min_count=8), schema.with_rare_ids(8, {"user": rows}), seed=1)
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    start = model.embedding.table.weight.detach().clone()
    Learner().step(model, optimizer, data.slice(0, 300))
    changed = (model.embedding.table.weight != start).any(1)
    first = int(model.embedding.offsets[USER])
    assert changed[first : first + 41].tolist() == [True, *(rows[1:] >= 8)]


def test_domains_and_indicator_of_rare_ids_stay(schema: Schema, data: SplitData) -> None:
    counted = schema.with_rare_ids(8, {"city": np.array([0, 150, 80, 40, 20, 9, 1])})
    context = CTRModel(plan_of(min_count=8), counted, seed=1).context(data.slice(0, 300))
    assert torch.equal(context.indicator_B, data.indicator_B)
    assert torch.equal(context.domain_B, data.domain_B)
    is_rare_B = data.indicator_B == 6
    assert not context.domain_BE[is_rare_B][:, : schema.embedding_size].any()


def test_rare_ids_need_counted_rows(schema: Schema) -> None:
    with pytest.raises(SettingError, match="min_count must have data whose ids are counted"):
        CTRModel(plan_of(min_count=8), schema, seed=1)


def dropped_share(model: CTRModel, batch: SplitData, reader: Optimizer | None = None) -> torch.Tensor:
    """Return the share of rows whose embedding is zero, as that of the unseen id is, per one-id field."""
    z_BN = model.context(batch.slice(0, len(batch)), reader).z_BN
    fields_BFE = z_BN[:, : 3 * model.schema.embedding_size].view(len(batch), 3, -1)
    return (fields_BFE == 0.0).all(2).float().mean(0)


def test_ids_are_dropped_in_training_where_a_field_has_many(wide: Schema, data: SplitData) -> None:
    model = CTRModel(plan_of(id_dropout=0.3), wide, seed=1)
    shares = dropped_share(model.train(), data, Optimizer(model, AdamConfig()))
    assert shares[[CITY, AGE]].tolist() == [0.0, 0.0]
    assert abs(float(shares[USER]) - 0.3) < 0.08
    assert dropped_share(model.eval(), data).tolist() == [0.0, 0.0, 0.0]


def test_dropped_ids_are_a_function_of_seed_and_step(wide: Schema, data: SplitData) -> None:
    model = CTRModel(plan_of(id_dropout=0.3), wide, seed=1).train()
    drawn = []
    for seed, steps in ((1, 0), (1, 0), (1, 1), (2, 0)):
        optimizer = Optimizer(model, AdamConfig(), seed=seed)
        optimizer.steps = steps
        drawn.append(model.context(data.slice(0, 300), optimizer).z_BN.detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])


def test_data_without_ids_refuse_id_dropout(schema: Schema) -> None:
    with pytest.raises(SettingError, match="id_dropout needs a one-id field of 100 or more ids"):
        CTRModel(plan_of(id_dropout=0.3), schema, seed=1)
