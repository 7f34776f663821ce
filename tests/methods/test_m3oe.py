"""M3oE against numpy row by row: the experts of a row and their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.backbones.dnn import Dnn
from ctrbench.contract.domains import domain_tables
from ctrbench.data.batches import Batch, Order, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.m3oe import BilevelLearner, ExpertsModule, M3oe, NormalizedBank, is_held_out
from ctrbench.nn.interactions import CrossModule
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import StageModule, StarDenseModule
from ctrbench.nn.tables import RowTable
from ctrbench.plugins.registry import select
from ctrbench.train.distributed import unsupported
from ctrbench.train.learner import Learner

LARGEST, DOMAINS, SHARED = 1, 6, 4
Build = Callable[..., CTRModel]


def experts(model: CTRModel) -> ExpertsModule:
    (found,) = [module for module in model.modules() if isinstance(module, ExpertsModule)]
    return found


def stir_everything(model: CTRModel) -> CTRModel:
    """Set every parameter to random values, different per known domain."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            change = 0.4 * torch.randn(parameter.shape, generator=generator)
            if "domain" in name:
                change[0] = 0.0
            parameter += change
    return model


def numbers(tensor: torch.Tensor | torch.nn.Module) -> np.ndarray:
    assert isinstance(tensor, torch.Tensor)
    return tensor.detach().numpy().astype(np.float64)


def normed(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def own(stage: torch.nn.Module, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a domain."""
    assert isinstance(stage, StageModule)
    assert isinstance(stage.domain, RowTable)
    table = numbers(stage.domain.weight[p])
    return table[:-1], table[-1]


def first_layer(model: CTRModel, z: np.ndarray, p: int) -> np.ndarray:
    layer = experts(model).first
    assert isinstance(layer.star, StarDenseModule)
    weight, bias = own(layer.star, p)
    star = z @ (numbers(layer.star.weight) * weight) + numbers(layer.star.bias) + bias
    star = np.tanh(normed(star) * numbers(layer.norm.scale) + numbers(layer.norm.shift))
    return star + z @ numbers(layer.skip.weight) + numbers(layer.skip.bias)


def expert(bank: torch.nn.Sequential, place: int, x: np.ndarray) -> np.ndarray:
    for layer in bank:
        assert isinstance(layer, NormalizedBank)
        h = x @ numbers(layer.bank.weight[place]) + numbers(layer.bank.bias[place, 0])
        x = np.tanh(normed(h) * numbers(layer.scale[place, 0]) + numbers(layer.shift[place, 0]))
    return x


def crossed(model: CTRModel, z: np.ndarray) -> np.ndarray:
    """z through the cross network, if there is one; kernels have one factor."""
    x = z
    for module in model.net.interactions:
        assert isinstance(module, CrossModule)
        for (kernel,), bias in zip(module.kernels, module.biases, strict=True):
            x = z * (x @ numbers(kernel) + numbers(bias)) + x
    return x


def by_hand(model: CTRModel, batch: Batch) -> np.ndarray:
    """The logits, row by row, in float64."""
    b, w_d = (1.0 / (1.0 + np.exp(-numbers(one))) for one in (experts(model).balance, experts(model).weight))
    logits = []
    for z, p in zip(numbers(model.context(batch).z_BN), batch.indicator_B.tolist(), strict=True):
        cross = crossed(model, z)
        x = first_layer(model, z if model.net.is_parallel else cross, p)
        weight, bias = own(experts(model).gate, p or LARGEST)
        gate = np.exp(x @ weight + bias)
        gate /= gate.sum()
        u = sum(gate[e] * expert(experts(model).shared, e, x) for e in range(SHARED))
        f = {q: expert(experts(model).own, q - 1, x) for q in range(1, DOMAINS + 1)}
        if p:
            part = b * f[p] + (1 - b) / (DOMAINS - 1) * sum(f[q] for q in f if q != p)
        else:
            part = sum(f.values()) / DOMAINS
        weight, bias = own(model.net.head[0], p or LARGEST)
        u = u + w_d * part
        if len(model.net.interactions) and model.net.is_parallel:
            u = np.concatenate([cross, u])
        logits.append((u @ weight + bias)[0])
    return np.array(logits)


@pytest.mark.parametrize(
    "backbone",
    ["dnn[hidden=8-4]", "dcnv2[hidden=8-4,layers=2]", "dcnv2[hidden=8-4,layers=2,structure=stacked]"],
)
def test_experts_are_mixed_by_the_formula(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, backbone: str
) -> None:
    model, batch = stir_everything(build_model("m3oe", backbone)).eval(), unseen_data.slice(0, 30)
    assert 0 in batch.indicator_B
    np.testing.assert_allclose(model(batch).detach(), by_hand(model, batch), rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_domain_gives_what_a_mixed_batch_gives(
    build_model: Callable[..., CTRModel], unseen_data: SplitData
) -> None:
    model = stir_everything(build_model("m3oe")).eval()
    mixed = model(unseen_data.slice(0, 30))
    for city in (0, 2):
        rows = torch.nonzero(unseen_data.indicator_B == city)[:, 0]
        torch.testing.assert_close(model(unseen_data.take(rows)), mixed[rows])


def test_gates_learn_without_a_gradient_to_their_input(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = stir_everything(build_model("m3oe")).train(), data.slice(0, 60)
    module, context = experts(model), model.context(batch)
    x_BN = module.first(context.z_BN, context)
    gate_BK = module.gate(x_BN.detach(), context).softmax(1)
    seen: list[torch.Tensor] = []
    module.gate.register_forward_hook(lambda _, given, made: seen.extend((given[0], made)))
    model.net(context)
    assert not seen[0].requires_grad
    assert seen[1].requires_grad
    torch.testing.assert_close(seen[1].softmax(1), gate_BK)


def test_balance_and_weight_start_at_a_half_and_are_learned_jointly(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = build_model("m3oe").train(), data.slice(0, 200)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    context = model.context(batch)
    model.net(context)
    assert {name: float(value) for name, value in context.logs.items()} == {
        "m3oe.balance": 0.5,
        "m3oe.weight": 0.5,
    }
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    for _ in range(4):
        Learner().step(model, optimizer, batch)
    assert [name for name, value in model.named_parameters() if torch.equal(value, start[name])] == []


def test_every_domains_expert_learns_from_every_row_and_the_rest_of_a_domain_from_its_own(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model = build_model("m3oe").train()
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    for _ in range(2):
        Learner().step(model, optimizer, data.slice(0, 200))
    before = {name: table.weight.detach().clone() for name, table in domain_tables(model).items()}
    bank = experts(model).own[0]
    assert isinstance(bank, NormalizedBank)
    weight = bank.bank.weight.detach().clone()
    rows = torch.nonzero(data.indicator_B <= 2)[:, 0]
    Learner().step(model, optimizer, data.take(rows))
    optimizer.flush()
    assert (bank.bank.weight != weight).flatten(1).any(1).all()
    assert len(before) == 3  # first layer, gate, head
    for name, table in domain_tables(model).items():
        assert torch.equal(table.weight[3:], before[name][3:])
        assert not torch.equal(table.weight[1:3], before[name][1:3])


def test_experts_have_the_widths_of_the_tower_and_different_weights(
    build_model: Callable[..., CTRModel],
) -> None:
    module = experts(build_model("m3oe"))
    shapes = []
    for shared, own in zip(module.shared, module.own, strict=True):
        assert isinstance(shared, NormalizedBank)
        assert isinstance(own, NormalizedBank)
        weight = torch.cat([shared.bank.weight, own.bank.weight]).detach()
        shapes.append((len(shared.bank.weight), len(own.bank.weight), *weight.shape[1:]))
        assert len(torch.unique(weight.flatten(1), dim=0)) == SHARED + DOMAINS
    assert shapes == [(4, 6, 8, 8), (4, 6, 8, 4)]


def test_parameters_are_counted_by_hand(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide; star and skip to 8, γ and β; experts of 8-4, with γ and β, four shared and one per domain;
    # b and w_d; gates and heads.
    counts, expert = build_model("m3oe").num_parameters(), (8 + 1) * 8 + (8 + 1) * 4 + 2 * (8 + 4)
    assert counts["per_domain"] == 7 * ((17 + 1) * 8 + (8 + 1) * 4 + (4 + 1)) + 6 * expert
    assert counts["dense"] == 2 * (17 + 1) * 8 + 2 * 8 + 4 * expert + 2


def test_a_single_domain_has_only_its_own_expert(schema: Schema, data: SplitData) -> None:
    schema = replace(schema, indicator_rows=(0, 300))
    model = CTRModel(M3oe().apply(Dnn(hidden=(8, 4)).plan()), schema, seed=1)
    context = model.context(data.take(torch.nonzero(data.indicator_B == 1)[:9, 0]))
    assert experts(model).shares(context).tolist() == [[0.5]]


def test_shares_sum_to_one(build_model: Callable[..., CTRModel], unseen_data: SplitData) -> None:
    model = stir_everything(build_model("m3oe"))
    share_BK = experts(model).shares(model.context(unseen_data.slice(0, 30)))
    torch.testing.assert_close(share_BK.sum(1), torch.ones(30))


def test_too_many_domains_are_refused(schema: Schema, build_model: Callable[..., CTRModel]) -> None:
    with pytest.raises(SettingError, match=r"max_domains.*--indicator"):
        build_model("m3oe[max_domains=5]")
    build_model("m3oe[max_domains=6]")


@pytest.mark.parametrize("settings", ["experts=1", "max_domains=0"])
def test_impossible_settings_are_refused(settings: str) -> None:
    with pytest.raises(SettingError):
        _ = select("methods", f"m3oe[{settings}]").value


def test_a_plan_without_hidden_layers_is_refused() -> None:
    assert M3oe().supports(Dnn().plan()) is None
    assert "tower" in str(M3oe().supports(Plan(tower=(), head=Dnn().plan().head)))


# b and w_d, learned by steps of their own.

BILEVEL = "m3oe[learn=bilevel]"


def scalars(model: CTRModel) -> list[float]:
    return [one.item() for one in experts(model).scalars]


def drawn(learner: Learner, data: SplitData, epoch: int = 0) -> Order:
    return learner.order(data, batch_size=64, generator=np.random.default_rng([1, epoch]))


def test_rows_held_out_are_the_same_in_every_epoch_and_all_others_are_visited_once(data: SplitData) -> None:
    data = replace(data, row=np.arange(300) + 10_000)
    orders = [drawn(BilevelLearner(), data, epoch) for epoch in range(2)]
    for order in orders:
        assert sorted(order.rows.tolist()) == np.flatnonzero(~is_held_out(data.row)).tolist()
        assert np.diff(order.starts).tolist() == [64] * 4 + [len(order.rows) - 256]
    assert orders[0].rows.tolist() != orders[1].rows.tolist()


def test_workers_are_refused_where_b_and_w_d_have_steps_of_their_own(build_model: Build) -> None:
    for learn, refused in (("jointly", False), ("bilevel", True)):
        reason = unsupported(build_model(f"m3oe[learn={learn}]"), M3oe(learn=learn).learner())
        assert (reason is not None) == refused


def test_holding_out_a_row_depends_on_its_index_only() -> None:
    rows = np.arange(1000)
    assert [bool(is_held_out(rows[place : place + 1])[0]) for place in rows] == is_held_out(rows).tolist()
    assert len(set(np.diff(np.flatnonzero(is_held_out(np.arange(100_000)))))) > 100


def test_one_row_in_fifty_is_held_out_in_any_range_of_rows() -> None:
    for start in (0, 10**6, 2 * 10**9):
        assert is_held_out(np.arange(start, start + 100_000)).mean() == pytest.approx(0.02, abs=0.001)


def test_ordinary_steps_change_all_parameters_but_b_and_w_d(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, learner = build_model(BILEVEL).train(), BilevelLearner()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    for batch in data.batches(drawn(learner, data)):
        learner.step(model, optimizer, batch)
    still = [name for name, value in model.named_parameters() if torch.equal(value, start[name])]
    assert still == ["net.tower.0.balance", "net.tower.0.weight"]


def test_an_epoch_ends_with_a_step_of_b_and_w_d_against_the_slope_on_the_rows_held_out(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    """Adam's first step is its rate times the negative sign of the slope, which is computed by hand."""
    model, learner = stir_everything(build_model(BILEVEL)).train(), BilevelLearner()
    drawn(learner, data)
    held, before = data.take(torch.from_numpy(np.flatnonzero(is_held_out(data.row)))), scalars(model)
    assert 1 < len(held) < 20
    labels = held.label_B.numpy()

    def loss() -> float:
        logits = by_hand(model, held)
        return float(np.mean(np.log1p(np.exp(logits)) - labels * logits))

    slopes = []
    for scalar in experts(model).scalars:
        losses = []
        for step in (0.01, -0.02, 0.01):
            scalar.data += step
            losses.append(loss())
        slopes.append(losses[0] - losses[1])
    # Labels of the dev rows have no effect.
    notes = learner.select(model, data, replace(data, label_B=torch.full((300,), float("nan"))))
    expected = [one - 1e-3 * np.sign(slope) for one, slope in zip(before, slopes, strict=True)]
    assert scalars(model) == pytest.approx(expected, abs=1e-5)
    sigmoids = [1.0 / (1.0 + np.exp(-one)) for one in expected]
    assert [notes["balance"], notes["weight"]] == pytest.approx(sigmoids, abs=1e-5)
    assert model.training
    assert all(one.grad is None and not one.requires_grad for one in experts(model).scalars)


def test_an_interrupted_run_resumes_with_the_same_steps(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    found = []
    for is_interrupted in (False, True):
        model, learner = stir_everything(build_model(BILEVEL)), BilevelLearner()
        for epoch in range(3):
            drawn(learner, data, epoch)
            if is_interrupted:
                state, learner = learner.state_dict(), BilevelLearner()
                learner.load_state_dict(state)
            learner.select(model, data, data)
        found.append(scalars(model))
    assert found[0] == found[1]


def test_each_epoch_uses_other_held_out_rows(data: SplitData, build_model: Build) -> None:
    model, learner, seen = build_model(BILEVEL), BilevelLearner(), []
    many = replace(data, row=np.where(np.arange(300) < 200, 0, 1))  # the first 200 are held out
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for epoch in range(2):
        drawn(learner, many, epoch)
        learner.select(model, many, many)
    assert [len(batch) for batch in seen] == [64, 64]
    assert not torch.equal(seen[0].numeric_BK, seen[1].numeric_BK)


def test_a_single_held_out_row_is_trained_on(data: SplitData, build_model: Build) -> None:
    model, learner = build_model(BILEVEL), BilevelLearner()
    one = replace(data, row=np.zeros(300, dtype=np.int64))
    assert sorted(drawn(learner, one).rows.tolist()) == list(range(300))
    learner.select(model, one, one)
    assert scalars(model) == [0.0, 0.0]


def test_moments_of_normalization_come_from_training_rows(data: SplitData, build_model: Build) -> None:
    model, learner = build_model("m3oe[learn=bilevel,norm=bn]").train(), BilevelLearner()
    drawn(learner, data)
    before = {name: value.clone() for name, value in model.named_buffers()}
    learner.select(model, data, data)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_jointly_is_the_default_and_not_part_of_the_key() -> None:
    assert type(M3oe().learner()) is Learner
    assert isinstance(M3oe(learn="bilevel").learner(), BilevelLearner)
    assert "learn" not in M3oe().key()
