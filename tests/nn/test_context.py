from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Dense, domain_table
from ctrbench.plugins.registry import select

Builder = Callable[..., CTRModel]


def test_e_d_is_the_embeddings_of_the_domain_features(build_model: Builder, data: SplitData) -> None:
    context = build_model().context(data.slice(0, 9))
    assert torch.equal(context.domain_BE, context.z_BN[:, :8])


def test_a_context_reads_the_table_rows_of_the_domains_present(build_model: Builder, data: SplitData) -> None:
    table = domain_table(6, torch.zeros(2))
    table.weight.data += torch.arange(7.0)[:, None]
    context = build_model().context(data.take(torch.argsort(data.indicator_B, descending=True)[:30]))
    rows = context.read(table)
    assert rows[:, 0].tolist() == context.routing.present_G.tolist()
    assert torch.equal(rows[context.routing.index_B][:, 0], context.indicator_B.float())


def test_part_of_a_context_equals_the_context_of_its_rows(build_model: Builder, data: SplitData) -> None:
    model = build_model()
    whole = model.context(data.slice(0, 20))
    part = whole.part(slice(5, 12))
    alone = model.context(data.slice(5, 12))
    assert torch.equal(part.z_BN, alone.z_BN)
    assert torch.equal(part.routing.present_G, alone.routing.present_G)
    part.penalties.append(torch.zeros(()))
    assert whole.penalties == []


def test_a_detached_context_passes_no_gradient_to_embeddings(build_model: Builder, data: SplitData) -> None:
    model = build_model()
    torch.autograd.backward(model.net(model.context(data.slice(0, 20)).detached()).sum())
    assert model.embedding.table.weight.grad is None
    assert model.net.head[0].weight.grad is not None


def test_part_by_row_numbers_equals_the_context_of_those_rows(schema: Schema, data: SplitData) -> None:
    head = (Dense(name="head", width=1),)
    model = CTRModel(Plan(tower=(), head=head, first_order=True), schema, seed=1)
    rows = torch.tensor([9, 2, 17])
    part, alone = model.context(data.slice(0, 20)).part(rows), model.context(data.take(rows))
    for name in ("z_BN", "domain_B", "indicator_B", "first_order_BF"):
        assert torch.equal(getattr(part, name), getattr(alone, name))


def test_part_of_a_context_has_the_loss_of_its_rows(
    build_with_history: Builder, history_data: SplitData
) -> None:
    model = build_with_history().train()
    context = model.context(history_data.slice(0, 40))
    (whole,) = context.row_losses
    rows = torch.tensor([5, 2, 31])
    part = context.part(rows)
    model.net(part)
    expected = whole.sum_B[rows].sum() / whole.steps_B[rows].sum()
    torch.testing.assert_close(part.penalties[0], expected)
    detached = context.detached()
    model.net(detached)
    assert detached.penalties == []


def test_part_of_a_context_has_the_behaviors_of_its_rows(
    history_schema: Schema, history_data: SplitData
) -> None:
    plan = replace(select("backbones", "dnn[hidden=8-4]").value.full_plan(), attends=True)  # type: ignore[union-attr]
    model, rows = CTRModel(plan, history_schema, seed=1), torch.tensor([5, 2, 31])
    whole, own = (
        model.context(history_data.slice(0, 40)),
        model.context(history_data.take(rows)).behaviors["history"],
    )
    for part in (
        whole.part(rows).behaviors["history"],
        whole.part(slice(0, 40)).part(rows).behaviors["history"],
    ):
        assert torch.equal(part.rows_nE, own.rows_nE)
        assert torch.equal(part.lists.offsets, own.lists.offsets)
        assert torch.equal(part.target_BE, own.target_BE)
    assert own.rows_nE.requires_grad
    assert not whole.detached().behaviors["history"].rows_nE.requires_grad
    model = CTRModel(replace(plan, attends=False), history_schema, seed=1)
    assert model.context(history_data.slice(0, 9)).behaviors == {}
