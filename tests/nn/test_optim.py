from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from torch import nn

from ctrbench.data.batches import SplitData
from ctrbench.nn.kernels import adam
from ctrbench.nn.kernels.adam import TensorRowAdam
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, DenseAdam, EmbeddingRule, Optimizer
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.tables import RowTable
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner, bce


class OneTable(nn.Module):
    """A table and a bias."""

    def __init__(self, start: torch.Tensor, rule: str) -> None:
        super().__init__()
        self.table = RowTable(start.clone(), rule)  # type: ignore[arg-type]
        self.bias = nn.Parameter(torch.zeros(1))


def targets(step: int) -> torch.Tensor:
    """The target of a step's rows, which changes with every step, so that gradients change sign."""
    return torch.randn(1, generator=torch.Generator().manual_seed(step))


def pull(rows: torch.Tensor, bias: torch.Tensor, step: int) -> torch.Tensor:
    return ((rows + bias - targets(step)) ** 2).sum()


def make_step(model: OneTable, optimizer: Optimizer, ids: list[int], step: int) -> None:
    optimizer.begin()
    rows = optimizer.read(model.table, torch.tensor(ids))
    torch.autograd.backward(pull(rows, model.bias, step))
    optimizer.step()


def visits(num_steps: int, num_rows: int, seed: int = 0) -> list[list[int]]:
    """Distinct ids of each step; low ones are frequent, high ones rare."""
    generator = np.random.default_rng(seed)
    chance = 1.0 / np.arange(1, num_rows + 1) ** 1.5
    return [np.flatnonzero(generator.random(num_rows) < chance).tolist() for _ in range(num_steps)]


START = torch.randn(12, 3, generator=torch.Generator().manual_seed(9))


def trained(
    rule: str = "embedding", embedding_rule: EmbeddingRule = "adam", steps: int = 60
) -> tuple[OneTable, Optimizer]:
    model = OneTable(START, rule)
    optimizer = Optimizer(model, AdamConfig(lr=0.01, embedding_rule=embedding_rule))
    for step, ids in enumerate(visits(steps, len(START))):
        make_step(model, optimizer, ids, step)
    return model, optimizer


FIELD_SIZES = (3000, 500, 20)


def zipf_data(num_rows: int) -> SplitData:
    generator = np.random.default_rng(0)
    columns = []
    for size in FIELD_SIZES:
        chance = 1.0 / np.arange(1, size)
        columns.append(generator.choice(np.arange(1, size), num_rows, p=chance / chance.sum()))
    ids = np.stack(columns, axis=1).astype(np.int32)
    taste = generator.standard_normal(FIELD_SIZES[0])
    label = generator.random(num_rows) < 1.0 / (1.0 + np.exp(-taste[ids[:, 0]]))
    domain = torch.from_numpy(ids[:, 2].copy())
    return SplitData(
        ids_BF=torch.from_numpy(ids),
        bags=(),
        numeric_BK=torch.zeros(num_rows, 0),
        domain_B=domain,
        indicator_B=domain,
        label_B=torch.from_numpy(label.astype(np.float32)),
        row=np.arange(num_rows),
        user=None,
        probability=None,
    )


def zipf_model() -> CTRModel:
    fields = (
        FieldShape(name=f"f{size}", kind="categorical", role="other", size=size) for size in FIELD_SIZES
    )
    schema = Schema(
        fields=tuple(fields),
        embedding_size=4,
        domain_features=("f20",),
        num_domains=19,
        indicator_rows=(0, *[1] * 19),
        base_rate=0.4,
    )
    return CTRModel(select("backbones", "dnn[hidden=16-8]").value.plan(), schema, seed=1)


def test_deferred_adam_equals_the_dense_adam_of_torch(record_property: Callable[[str, object], None]) -> None:
    data, deferred, dense = zipf_data(1000 * 32), zipf_model(), zipf_model()
    learner, optimizer = Learner(), Optimizer(deferred, AdamConfig(lr=1e-3))
    reference = torch.optim.Adam(dense.parameters(), lr=1e-3)
    losses: list[tuple[float, float]] = []
    for batch in data.in_order(32):
        reference.zero_grad()
        loss = bce(dense(batch), batch.label_B)
        torch.autograd.backward(loss)
        reference.step()
        losses.append((float(learner.step(deferred, optimizer, batch).loss), loss.item()))
    assert len(losses) == 1000
    torch.testing.assert_close(*torch.tensor(losses).unbind(1), rtol=1e-4, atol=0.0)
    optimizer.flush()
    expected = dict(dense.named_parameters())
    apart = max(
        float((value.detach() - expected[name].detach()).abs().max())
        for name, value in deferred.named_parameters()
    )
    record_property("largest difference of a weight", apart)
    assert apart < 1e-5


def test_lazy_adam_differs_from_deferred_adam() -> None:
    deferred, lazy = trained("embedding")[0], trained("embedding", "lazy_adam")[0]
    assert float((deferred.table.weight - lazy.table.weight).detach().abs().max()) > 1e-3


def test_lazy_adam_equals_the_sparse_adam_of_torch() -> None:
    model, _ = trained("embedding", "lazy_adam")
    embedding, bias = nn.Embedding.from_pretrained(START, freeze=False, sparse=True), torch.zeros(1)
    bias.requires_grad_()
    sparse = torch.optim.SparseAdam(embedding.parameters(), lr=0.01)
    dense = torch.optim.Adam([bias], lr=0.01)
    for step, ids in enumerate(visits(60, len(START))):
        sparse.zero_grad()
        dense.zero_grad()
        torch.autograd.backward(pull(embedding(torch.tensor(ids)), bias, step))
        sparse.step()
        dense.step()
    torch.testing.assert_close(model.table.weight, embedding.weight, rtol=1e-5, atol=1e-6)


def test_each_row_of_a_domain_table_counts_its_own_steps() -> None:
    model, _ = trained("domain")
    bias = torch.zeros(1, requires_grad=True)
    rows = [nn.Parameter(row.clone()) for row in START]
    own = [torch.optim.Adam([row], lr=0.01) for row in rows]
    shared = torch.optim.Adam([bias], lr=0.01)
    for step, ids in enumerate(visits(60, len(START))):
        for optimizer in (shared, *own):
            optimizer.zero_grad()
        torch.autograd.backward(pull(torch.stack([rows[row] for row in ids]), bias, step))
        for optimizer in (shared, *(own[row] for row in ids)):
            optimizer.step()
    torch.testing.assert_close(model.table.weight.detach(), torch.stack(rows).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["domain", "embedding"])
def test_rows_that_are_never_read_do_not_move(rule: str) -> None:
    model, optimizer = OneTable(START, rule), None
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    for step in range(20):
        make_step(model, optimizer, [2, 5], step)
    optimizer.flush()
    moved = (model.table.weight != START).any(1)
    assert torch.nonzero(moved)[:, 0].tolist() == [2, 5]


def test_rows_of_absent_domains_do_not_move() -> None:
    model, optimizer = trained("domain")
    before = model.table.weight.detach().clone()
    for step in range(20):
        make_step(model, optimizer, [0, 1], step)
    optimizer.flush()
    assert torch.equal(model.table.weight[2:], before[2:])


def test_flushing_gives_the_rows_that_reading_gives() -> None:
    flushed, whole = trained("embedding")
    _, read = trained("embedding")
    rows_UW = read.tables["table"].read(torch.arange(len(START)), read.steps + 1)
    whole.flush()
    assert torch.equal(flushed.table.weight, rows_UW)


def on_tensors(rule: str = "embedding", embedding_rule: EmbeddingRule = "adam") -> tuple[OneTable, Optimizer]:
    """The same training as `trained`, by the operations that any device has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adam, "LoopRowAdam", TensorRowAdam)
        return trained(rule, embedding_rule)


@pytest.mark.parametrize("make", [trained, on_tensors])
def test_lookup_returns_rows_and_sums_their_gradients(
    make: Callable[[], tuple[OneTable, Optimizer]],
) -> None:
    model, optimizer = make()
    ids_n = torch.tensor([7, 2, 7, 11, 2, 0], dtype=torch.int32)
    optimizer.flush()
    optimizer.begin()
    actual = optimizer.lookup(model.table, ids_n)
    assert torch.equal(actual, model.table.weight.detach()[ids_n])
    torch.autograd.backward((actual * torch.arange(1.0, 7.0)[:, None]).sum())
    (read,) = optimizer.reads
    assert read.leaf.grad is not None
    sums = dict(zip(read.rows_U.tolist(), read.leaf.grad[:, 0].tolist(), strict=True))
    assert {row: total for row, total in sums.items() if row < 12} == {7: 4.0, 2: 7.0, 11: 4.0, 0: 6.0}


def test_dense_adam_equals_the_adam_of_torch() -> None:
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    others = [nn.Parameter(weight.detach().clone()) for weight in weights]
    ours, theirs = DenseAdam(weights, AdamConfig(lr=0.1)), torch.optim.Adam(others, lr=0.1)
    for step in range(30):
        ours.begin()
        theirs.zero_grad()
        for first, second in (weights, others):
            # The second one rests in every other step.
            loss = (first * targets(step)).pow(2).sum() + (
                second.sum() * float(step % 2) if step % 2 else 0.0
            )
            torch.autograd.backward(loss)
        ours.step()
        theirs.step()
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-6, atol=1e-7)


def test_flushing_twice_changes_nothing() -> None:
    model, optimizer = trained("embedding")
    optimizer.flush()
    once = model.table.weight.detach().clone()
    optimizer.flush()
    assert torch.equal(model.table.weight, once)


def test_flushing_during_training_does_not_change_its_result() -> None:
    (straight, _), model = trained("embedding"), OneTable(START, "embedding")
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    for step, ids in enumerate(visits(60, len(START))):
        make_step(model, optimizer, ids, step)
        if step % 7 == 0:
            optimizer.flush()
    torch.testing.assert_close(
        optimizer.tables["table"].read(torch.arange(12), 61),
        trained("embedding")[1].tables["table"].read(torch.arange(12), 61),
        rtol=1e-5,
        atol=1e-6,
    )
    assert straight.table.weight.shape == model.table.weight.shape


@pytest.mark.parametrize(
    ("rule", "embedding_rule"), [("embedding", "adam"), ("embedding", "lazy_adam"), ("domain", "adam")]
)
def test_a_restored_optimizer_continues_bit_for_bit(rule: str, embedding_rule: EmbeddingRule) -> None:
    model, optimizer = trained(rule, embedding_rule, steps=30)
    file = BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = OneTable(torch.zeros_like(START), rule)
    restored = Optimizer(other, AdamConfig(lr=0.01, embedding_rule=embedding_rule))
    other.load_state_dict(state["model"])
    restored.load_state_dict(state["optimizer"])
    for step, ids in enumerate(visits(20, len(START), seed=1)):
        make_step(model, optimizer, ids, step)
        make_step(other, restored, ids, step)
    assert torch.equal(model.table.weight, other.table.weight)
    assert torch.equal(model.bias, other.bias)
    assert torch.equal(optimizer.tables["table"].packed, restored.tables["table"].packed)


def test_a_table_is_read_once_per_step() -> None:
    model, optimizer = trained("embedding", steps=1)
    optimizer.begin()
    optimizer.read(model.table, torch.tensor([1]))
    with pytest.raises(AssertionError, match="read once per step"):
        optimizer.read(model.table, torch.tensor([2]))


def test_a_table_without_a_gradient_does_not_change() -> None:
    model, optimizer = trained("domain", steps=5)
    before = model.table.weight.detach().clone()
    optimizer.begin()
    optimizer.read(model.table, torch.tensor([0, 1]))
    torch.autograd.backward(model.bias.sum())
    optimizer.step()
    assert torch.equal(model.table.weight, before)


def test_the_optimizer_updates_the_model_in_place() -> None:
    model, optimizer = trained("embedding", steps=1)
    assert model.table.weight.data_ptr() == optimizer.tables["table"].packed.data_ptr()


@pytest.mark.parametrize("ids", [[1, 12], [3, -1]])
def test_after_an_id_outside_the_table_lookups_still_work(ids: list[int]) -> None:
    model, optimizer = trained(steps=1)
    optimizer.begin()
    with pytest.raises(IndexError, match="12 rows"):
        optimizer.lookup(model.table, torch.tensor(ids))
    optimizer.begin()
    assert optimizer.lookup(model.table, torch.tensor([1, 3, 1])).shape == (3, 3)


def test_the_dense_view_has_the_weights_outside_tables() -> None:
    model, optimizer = trained(steps=1)
    assert list(optimizer.dense_view().parameters) == [model.bias]


def test_a_learning_rate_of_the_dense_view_ends_with_its_context() -> None:
    model, optimizer = trained(steps=3)
    before = model.bias.detach().clone()
    with optimizer.dense_view().learning_rate(0.0):
        make_step(model, optimizer, [2, 5], 3)
    assert torch.equal(model.bias, before)
    make_step(model, optimizer, [2, 5], 4)
    assert not torch.equal(model.bias, before)


def test_first_moments_of_dense_weights_can_be_reset() -> None:
    _, optimizer = trained(steps=3)
    (mean,) = optimizer.state_dict()["dense"]["means"]  # type: ignore[index]
    assert mean.any()
    optimizer.dense_view().reset_first_moments()
    assert not mean.any()
