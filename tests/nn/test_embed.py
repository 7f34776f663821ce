from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ctrbench.data.batches import Batch, SplitData
from ctrbench.nn.build import Build
from ctrbench.nn.embed import FieldEmbedding
from ctrbench.nn.gather import mean_rows
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.pooling import Pooling
from ctrbench.nn.schema import Schema
from ctrbench.nn.tables import EMBEDDING_STD
from ctrbench.train.learner import Learner


@pytest.fixture
def embedding(schema: Schema) -> FieldEmbedding:
    return FieldEmbedding(schema, Build(schema=schema, seed=5))


@pytest.fixture
def batch(data: SplitData) -> Batch:
    return data.slice(0, 40)


def rows_of(embedding: FieldEmbedding, field: str) -> torch.Tensor:
    """The table rows of a field."""
    schema, start = embedding.schema, 0
    for shape in (*schema.single_fields, *schema.bag_fields):
        if shape.name == field:
            return embedding.table.weight[start : start + shape.size]
        start += shape.size
    raise KeyError(field)


@pytest.mark.parametrize(("field", "index"), [("city", 0), ("age", 1), ("user", 2)])
def test_one_id_fields_are_at_their_slice(
    embedding: FieldEmbedding, batch: Batch, field: str, index: int
) -> None:
    z_BN, _ = embedding(batch)
    expected = rows_of(embedding, field)[batch.ids_BF[:, index].long()]
    assert torch.equal(z_BN[:, embedding.schema.slices[field]], expected)


def test_plain_numbers_are_last(embedding: FieldEmbedding, batch: Batch) -> None:
    assert torch.equal(embedding(batch)[0][:, embedding.schema.slices["price"]], batch.numeric_BK)


def test_bags_are_averaged_and_empty_ones_are_zero(embedding: FieldEmbedding, batch: Batch) -> None:
    pooled = embedding(batch)[0][:, embedding.schema.slices["tags"]]
    values, offsets = batch.bags[0]
    lists = [values[offsets[row] : offsets[row + 1]].long() for row in range(len(batch))]
    assert {len(ids) for ids in lists} == {0, 1, 2, 3}
    table = rows_of(embedding, "tags")
    expected = [table[ids].mean(0) if len(ids) else torch.zeros(4) for ids in lists]
    torch.testing.assert_close(pooled, torch.stack(expected))


def test_starts_have_the_documented_std_and_differ_by_field(schema: Schema) -> None:
    wide = replace(schema, embedding_size=256)
    weight = FieldEmbedding(wide, Build(schema=wide, seed=1)).table.weight.detach()
    assert float(weight[1:7].std()) == pytest.approx(EMBEDDING_STD, rel=0.05)
    assert not torch.equal(weight[1:4], weight[8:11])


def test_a_field_starts_from_the_same_rows_in_every_schema(schema: Schema) -> None:
    fewer = replace(schema, fields=schema.fields[3:])
    alone = FieldEmbedding(fewer, Build(schema=fewer, seed=5))
    beside = FieldEmbedding(schema, Build(schema=schema, seed=5))
    assert torch.equal(rows_of(alone, "user"), rows_of(beside, "user"))


def unseen_rows(model: CTRModel) -> torch.Tensor:
    names = ("city", "age", "user", "tags")
    return torch.stack([rows_of(model.embedding, name)[0] for name in names]).detach().clone()


def test_rows_of_unseen_values_stay_zero_in_training(
    data: SplitData, build_model: Callable[..., CTRModel]
) -> None:
    model = build_model()
    optimizer, learner = Optimizer(model, AdamConfig(lr=0.05)), Learner()
    assert not unseen_rows(model).any()
    for batch in data.in_order(32):
        learner.step(model, optimizer, batch)
    optimizer.flush()
    assert not unseen_rows(model).any()
    assert rows_of(model.embedding, "city")[1:].detach().abs().min() > 0


def test_unseen_values_embed_to_zero(embedding: FieldEmbedding, unseen_data: SplitData) -> None:
    z_BN, _ = embedding(unseen_data.slice(0, 1))
    assert unseen_data.ids_BF[0, 0] == 0
    assert not z_BN[:, embedding.schema.slices["city"]].any()


def test_reading_through_the_optimizer_equals_reading_directly(
    data: SplitData, build_model: Callable[..., CTRModel]
) -> None:
    model = build_model()
    batch, optimizer = data.slice(0, 50), Optimizer(model, AdamConfig())
    direct = model.embedding(batch)[0]
    optimizer.begin()
    assert torch.equal(model.embedding(batch, optimizer)[0], direct)


def test_gradients_through_the_optimizer_equal_those_of_the_table(
    data: SplitData, build_model: Callable[..., CTRModel]
) -> None:
    model = build_model()
    batch, optimizer = data.slice(0, 50), Optimizer(model, AdamConfig())
    torch.autograd.backward(model.embedding(batch)[0].pow(2).sum())
    expected = model.embedding.table.weight.grad
    optimizer.begin()
    torch.autograd.backward(model.embedding(batch, optimizer)[0].pow(2).sum())
    (read,) = optimizer.reads
    full = torch.zeros_like(expected).index_copy_(0, read.rows_U, read.leaf.grad)  # type: ignore[arg-type]
    torch.testing.assert_close(full, expected)


def test_the_rows_of_the_batch_are_read_once_each(
    data: SplitData, build_model: Callable[..., CTRModel]
) -> None:
    model, batch = build_model(), data.slice(0, 3)
    optimizer, embedding = Optimizer(model, AdamConfig()), model.embedding
    optimizer.begin()
    embedding(batch, optimizer)
    (read,) = optimizer.reads
    ids = {
        *(batch.ids_BF + embedding.offsets).flatten().tolist(),
        *(batch.bags[0][0] + embedding.bag_starts[0]).tolist(),
    }
    assert sorted(read.rows_U.tolist()) == sorted(ids)


def test_a_schema_of_numbers_alone_has_no_table(schema: Schema, data: SplitData) -> None:
    numbers = replace(schema, fields=(schema.fields[1],))
    batch = replace(data.slice(0, 5), ids_BF=torch.zeros(5, 0, dtype=torch.int32), bags=())
    z_BN = FieldEmbedding(numbers, Build(schema=numbers, seed=1))(batch)[0]
    assert torch.equal(z_BN, batch.numeric_BK)


def test_a_schema_of_lists_alone(schema: Schema, data: SplitData) -> None:
    lists = replace(schema, fields=(schema.fields[2],))
    batch = replace(
        data.slice(0, 5), ids_BF=torch.zeros(5, 0, dtype=torch.int32), numeric_BK=torch.zeros(5, 0)
    )
    assert FieldEmbedding(lists, Build(schema=lists, seed=1))(batch)[0].shape == (5, 4)


def hiding(schema: Schema) -> Schema:
    return replace(schema, hidden=schema.domain_features)


def test_hidden_fields_are_not_in_z(schema: Schema, batch: Batch) -> None:
    hidden = hiding(schema)
    assert hidden.slices == {"user": slice(0, 4), "tags": slice(4, 8), "price": slice(8, 9)}
    embedding = FieldEmbedding(hidden, Build(schema=hidden, seed=5))
    everything = FieldEmbedding(schema, Build(schema=schema, seed=5))(batch)[0]
    assert torch.equal(embedding(batch)[0], everything[:, 8:])


def test_ids_of_hidden_fields_do_not_change_z(schema: Schema, batch: Batch) -> None:
    embedding = FieldEmbedding(hiding(schema), Build(schema=hiding(schema), seed=5))
    other = batch.ids_BF.clone()
    other[:, :2] = 1 + (other[:, :2] % 3)
    assert not torch.equal(other, batch.ids_BF)
    assert torch.equal(embedding(replace(batch, ids_BF=other))[0], embedding(batch)[0])


def test_hidden_lists_and_numbers_are_left_out(schema: Schema, batch: Batch) -> None:
    hidden = replace(schema, hidden=("tags", "price"))
    z_BN, _ = FieldEmbedding(hidden, Build(schema=hidden, seed=5))(batch)
    everything = FieldEmbedding(schema, Build(schema=schema, seed=5))(batch)[0]
    assert torch.equal(z_BN, everything[:, :12])


def test_hidden_fields_have_no_rows(schema: Schema) -> None:
    embedding = FieldEmbedding(hiding(schema), Build(schema=hiding(schema), seed=5))
    assert embedding.table.weight.shape == (41 + 11, 4)
    assert set(embedding.state_dict()) == {"table.weight"}


@pytest.fixture
def with_weights(schema: Schema) -> FieldEmbedding:
    """Embeddings with first-order weights that are not zero."""
    embedding = FieldEmbedding(schema, Build(schema=schema, seed=5), first_order=True)
    with torch.no_grad():
        embedding.table.weight[:, -1] = torch.arange(len(embedding.table.weight)).float()
    return embedding


def test_first_order_weights_start_at_zero_beside_the_same_embeddings(schema: Schema, batch: Batch) -> None:
    first_order = FieldEmbedding(schema, Build(schema=schema, seed=5), first_order=True)
    without = FieldEmbedding(schema, Build(schema=schema, seed=5))
    assert torch.equal(first_order.table.weight[:, :-1], without.table.weight)
    assert not first_order.table.weight[:, -1].any()
    assert first_order.table.weight.shape == (len(without.table.weight), 5)
    assert torch.equal(first_order(batch)[0], without(batch)[0])
    assert without(batch)[1] is None


def test_first_order_weights_are_averaged_in_lists(with_weights: FieldEmbedding, batch: Batch) -> None:
    weights_BF = with_weights(batch)[1]
    assert weights_BF is not None
    # City, age and user lie on end, then the tags; the number has no weight.
    firsts = torch.tensor([0, 7, 11])
    assert torch.equal(weights_BF[:, :3], (batch.ids_BF + firsts).float())
    values, offsets = batch.bags[0]
    lists = [52 + values[offsets[row] : offsets[row + 1]].float() for row in range(len(batch))]
    expected = [float(weights.mean()) if len(weights) else 0.0 for weights in lists]
    assert weights_BF[:, 3].tolist() == pytest.approx(expected)
    assert weights_BF.shape == (len(batch), 4)


def test_first_order_weights_read_through_the_optimizer_equal_those_of_the_table(
    with_weights: FieldEmbedding, batch: Batch
) -> None:
    direct = with_weights(batch)
    optimizer = Optimizer(with_weights, AdamConfig())
    optimizer.begin()
    read = with_weights(batch, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(direct, read, strict=True))


def test_first_order_weights_get_their_own_gradient(with_weights: FieldEmbedding, batch: Batch) -> None:
    weights_BF = with_weights(batch)[1]
    assert weights_BF is not None
    torch.autograd.backward(weights_BF[:, :3].sum())
    grad = with_weights.table.weight.grad
    assert grad is not None
    assert not grad[:, :-1].any()
    assert grad[7:11, -1].tolist() == torch.bincount(batch.ids_BF[:, 1], minlength=4).tolist()


def test_a_sequence_shares_the_embeddings_of_its_target(
    history_schema: Schema, history_data: SplitData
) -> None:
    embedding = FieldEmbedding(history_schema, Build(schema=history_schema, seed=1))
    assert len(embedding.table.weight) == sum(
        field.size for field in history_schema.fields if field.name != "history"
    )
    batch = history_data.slice(0, 30)
    user = embedding.table.weight[len(embedding.table.weight) - 41 - 11 : -11]
    assert torch.equal(embedding(batch)[0][:, history_schema.slices["user"]], user[batch.ids_BF[:, 2].long()])
    values, offsets = batch.bags[1]
    expected = mean_rows(user[values.long()], offsets)
    torch.testing.assert_close(embedding(batch)[0][:, history_schema.slices["history"]], expected)


def test_the_width_of_z_is_the_same_for_every_pooling(
    history_schema: Schema, history_data: SplitData
) -> None:
    build = Build(schema=history_schema, seed=1)
    shapes = {
        FieldEmbedding(history_schema, build, pooling=Pooling(kind=kind))(history_data.slice(0, 9))[0].shape
        for kind in ("mean", "din", "dien")
    }
    assert shapes == {(9, history_schema.num_inputs)}


def test_the_pooling_does_not_change_other_fields(history_schema: Schema, history_data: SplitData) -> None:
    build, batch = Build(schema=history_schema, seed=1), history_data.slice(0, 20)
    mean, din = (
        FieldEmbedding(history_schema, build, pooling=Pooling(kind=kind))(batch)[0]
        for kind in ("mean", "din")
    )
    same = (mean == din).all(0)
    index = history_schema.slices["history"]
    assert same[: index.start].all()
    assert same[index.stop :].all()
    assert not same[index].any()


@pytest.mark.parametrize("kind", ["din", "dien"])
def test_the_target_is_the_field_that_the_card_names(
    history_schema: Schema, history_data: SplitData, kind: str
) -> None:
    pooling, batch = Pooling(kind=kind), history_data.slice(0, 20)  # type: ignore[arg-type]
    embedding = FieldEmbedding(history_schema, Build(schema=history_schema, seed=1), pooling=pooling)
    has_choice = batch.bags[1][1].diff() > 1

    def history(column: int | None) -> torch.Tensor:
        ids_BF = batch.ids_BF.clone()
        if column is not None:
            ids_BF[:, column] = ids_BF[:, column] % 3 + 1
        return embedding(replace(batch, ids_BF=ids_BF))[0][:, history_schema.slices["history"]]

    assert torch.equal(history(0), history(None))
    assert torch.equal(history(1), history(None))
    assert (history(2) != history(None)).any(1)[has_choice & (batch.ids_BF[:, 2] > 3)].all()


@pytest.mark.parametrize("kind", ["mean", "din", "dien"])
def test_first_order_weights_are_averaged_under_every_pooling(
    history_schema: Schema, history_data: SplitData, kind: str
) -> None:
    embedding = FieldEmbedding(
        history_schema, Build(schema=history_schema, seed=1), first_order=True, pooling=Pooling(kind=kind)
    )
    embedding.table.weight.data[:, -1] = torch.arange(len(embedding.table.weight))
    batch = history_data.slice(0, 20)
    z_BN, weights_BF = embedding(batch)
    values, offsets = batch.bags[1]
    first = len(embedding.table.weight) - 41 - 11
    assert z_BN.shape == (20, history_schema.num_inputs)
    torch.testing.assert_close(weights_BF[:, -1:], mean_rows((first + values).float()[:, None], offsets))
