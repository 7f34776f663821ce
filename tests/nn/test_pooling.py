"""DIN and DIEN against their formulas, element by element in float64, and the auxiliary loss under all learners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.extend import Method
from ctrbench.nn.build import Build
from ctrbench.nn.embed import FieldEmbedding
from ctrbench.nn.gather import mean_rows
from ctrbench.nn.lists import Lists
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.pooling import Dien, Din, Pooling, Recurrence, SequencePooling
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner, bce, total_loss

LENGTHS = [3, 0, 1, 5, 2, 0]
E = 4
Array = np.ndarray


@pytest.fixture
def schema(schema: Schema) -> Schema:
    """The shared fields, and a sequence of users whose target is the user."""
    history = FieldShape(name="history", kind="sequence", role="user", size=41, target="user")
    return replace(schema, fields=(*schema.fields, history))


@pytest.fixture
def data(data: SplitData) -> SplitData:
    generator = np.random.default_rng(5)
    return replace(data, bags=(*data.bags, bag(generator.integers(0, 6, len(data)), generator)))


def bag(lengths: Array, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = generator.integers(1, 41, offsets[-1]).astype(np.int32)
    return torch.from_numpy(values), torch.from_numpy(offsets)


@pytest.fixture
def build(schema: Schema) -> Build:
    return Build(schema=schema, seed=3)


def shaken(module: nn.Module) -> nn.Module:
    """Convert a module to float64 and set all parameters to random numbers."""
    generator = torch.Generator().manual_seed(2)
    for parameter in module.double().parameters():
        parameter.data.copy_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def drawn(lengths: list[int], *, seed: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)
    rows = torch.randn(int(offsets[-1]), E, generator=generator, dtype=torch.float64)
    return rows, offsets, torch.randn(len(lengths), E, generator=generator, dtype=torch.float64)


def per_list(rows: torch.Tensor, offsets: torch.Tensor) -> list[Array]:
    return [rows[a:b].detach().numpy() for a, b in pairwise(offsets.tolist())]


def numbers(module: nn.Module) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def din_weight(e: Array, t: Array, p: dict[str, Array]) -> float:
    x = np.concatenate([e, t, e - t, e * t])
    for layer in range(2):
        x = x @ p[f"weights.{layer}"] + p[f"biases.{layer}"]
        x = np.where(x > 0, x, p[f"slopes.{layer}"] * x)
    return float((x @ p["weights.2"] + p["biases.2"])[0])


def gru_step(x: Array, h: Array, p: dict[str, Array], name: str, share: float = 1.0) -> Array:
    (wu, wr, wh), (uu, ur, uh) = (np.split(p[f"{name}.{part}"], 3, axis=1) for part in ("input", "state"))
    bu, br, bh = np.split(p[f"{name}.bias"], 3)
    u, r = sigmoid(x @ wu + h @ uu + bu), sigmoid(x @ wr + h @ ur + br)
    new = np.tanh(x @ wh + r * (h @ uh) + bh)
    u = share * u
    return (1.0 - u) * h + u * new


def extracted(es: Array, p: dict[str, Array]) -> Array:
    h, states = np.zeros(E), []
    for e in es:
        h = gru_step(e, h, p, "extractor")
        states.append(h)
    return np.array(states)


def dien_vector(es: Array, t: Array, p: dict[str, Array]) -> Array:
    gs = extracted(es, p)
    scores = np.array([g @ p["attention"] @ t for g in gs])
    shares = np.exp(scores) / np.exp(scores).sum()
    h = np.zeros(E)
    for g, share in zip(gs, shares, strict=True):
        h = gru_step(g, h, p, "evolution", share)
    return h


# --- against the formulas ---


def test_din_is_a_weighted_sum_and_empty_lists_are_a_learned_vector(build: Build) -> None:
    din = shaken(Din("history", build))
    rows, offsets, target = drawn(LENGTHS)
    pooled, loss = din(rows, offsets, target)
    p = numbers(din)
    for row, (es, t) in enumerate(zip(per_list(rows, offsets), target.numpy(), strict=True)):
        expected = sum((din_weight(e, t, p) * e for e in es), np.zeros(E)) if len(es) else p["empty_E"]
        np.testing.assert_allclose(pooled[row].detach(), expected, rtol=1e-10)
    assert loss is None


def test_the_attention_of_din_has_widths_80_40_1(build: Build) -> None:
    shapes = [tuple(weight.shape) for weight in Din("history", build).weights]
    assert shapes == [(4 * E, 80), (80, 40), (40, 1)]


def test_dien_is_the_last_state_of_the_weighted_gru(build: Build) -> None:
    dien = shaken(Dien("history", build, weight=1.0)).eval()
    rows, offsets, target = drawn(LENGTHS)
    pooled, loss = dien(rows, offsets, target)
    p = numbers(dien)
    for row, (es, t) in enumerate(zip(per_list(rows, offsets), target.numpy(), strict=True)):
        expected = dien_vector(es, t, p) if len(es) else p["empty_E"]
        np.testing.assert_allclose(pooled[row].detach(), expected, rtol=1e-9)
    assert loss is None


def test_the_auxiliary_loss_is_the_mean_over_steps(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    dien = shaken(Dien("history", build, weight=0.5)).train()
    rows, offsets, target = drawn(LENGTHS)
    draws: list[tuple[torch.Tensor, torch.Tensor]] = []
    steps = Lists.steps
    monkeypatch.setattr(Lists, "steps", lambda self: draws.append(steps(self)) or draws[-1])
    _, loss = dien(rows, offsets, target)
    ((_, negatives),) = draws
    p, e = numbers(dien), rows.numpy()
    terms, sums = [], np.zeros(len(LENGTHS))
    for row, es in enumerate(per_list(rows, offsets)):
        gs = extracted(es, p)
        for j in range(len(es) - 1):
            negative = e[negatives[len(terms)]]
            terms.append(-np.log(sigmoid(gs[j] @ es[j + 1])) - np.log(1.0 - sigmoid(gs[j] @ negative)))
            sums[row] += terms[-1]
    assert len(terms) == 7
    np.testing.assert_allclose(loss.sum_B.detach(), sums, rtol=1e-10)
    assert loss.steps_B.tolist() == [2, 0, 0, 4, 1, 0]
    np.testing.assert_allclose(loss.mean().item(), np.mean(terms), rtol=1e-10)
    assert loss.weight == 0.5


def test_the_gru_equals_that_of_torch_with_one_minus_the_update_gate(build: Build) -> None:
    own = shaken(Recurrence("gru", build))
    theirs = nn.GRU(E, E, batch_first=True).double()
    (u, r, h), (su, sr, sh) = own.input.chunk(3, dim=1), own.state.chunk(3, dim=1)
    bu, br, bh = own.bias.chunk(3)
    # Theirs are stacked r, z, n with z = 1 - u.
    theirs.weight_ih_l0.data = torch.cat([r, -u, h], dim=1).T.contiguous()
    theirs.weight_hh_l0.data = torch.cat([sr, -su, sh], dim=1).T.contiguous()
    theirs.bias_ih_l0.data = torch.cat([br, -bu, bh])
    theirs.bias_hh_l0.data.zero_()
    rows, offsets, _ = drawn(LENGTHS)
    lists = Lists(offsets, rows.device)
    states = torch.cat(own(rows[lists.order_n], lists))[lists.time_rank_n]
    for a, b in pairwise(offsets.tolist()):
        if b > a:
            torch.testing.assert_close(states[a:b], theirs(rows[a:b][None])[0][0])


def test_weight_zero_keeps_the_state_and_weight_one_gives_the_gru(build: Build) -> None:
    own = shaken(Recurrence("gru", build))
    rows, offsets, _ = drawn([4])
    lists = Lists(offsets, rows.device)
    assert not any(state.any() for state in own(rows, lists, torch.zeros(4, 1, dtype=torch.float64)))
    ones = own(rows, lists, torch.ones(4, 1, dtype=torch.float64))
    torch.testing.assert_close(torch.cat(ones), torch.cat(own(rows, lists)))


@pytest.mark.parametrize("kind", [Din, lambda field, build: Dien(field, build, weight=1.0)])
def test_gradients_equal_finite_differences(
    build: Build, kind: Callable[[str, Build], SequencePooling]
) -> None:
    module = shaken(kind("history", build)).eval()
    rows, offsets, target = drawn([2, 0, 3])

    def pooled(rows: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return module(rows, offsets, target)[0]

    assert torch.autograd.gradcheck(pooled, (rows.requires_grad_(), target.requires_grad_()))


# --- lists and negatives ---


@pytest.mark.parametrize("lengths", [[4], [4, 0], [1, 1], [0, 0], [0]])
def test_without_negatives_or_next_steps_there_is_no_auxiliary_loss(build: Build, lengths: list[int]) -> None:
    dien = shaken(Dien("history", build, weight=1.0)).train()
    pooled, loss = dien(*drawn(lengths))
    assert pooled.shape == (len(lengths), E)
    assert loss.mean() is None


# --- in a model ---

Model = Callable[..., CTRModel]


@pytest.fixture
def make(schema: Schema) -> Model:
    def make(method: str = "plain", backbone: str = "dnn[hidden=8-4,pooling=dien]") -> CTRModel:
        rewriter, base = select("methods", method).value, select("backbones", backbone).value
        return CTRModel(rewriter.apply(base.full_plan()), schema, seed=1)  # type: ignore[union-attr]

    return make


POOLED = ["dnn[hidden=8-4,pooling=din]", "dnn[hidden=8-4,pooling=dien]"]


def test_a_sequence_shares_the_embeddings_of_its_target(schema: Schema, data: SplitData) -> None:
    embedding = FieldEmbedding(schema, Build(schema=schema, seed=1))
    assert len(embedding.table.weight) == sum(
        field.size for field in schema.fields if field.name != "history"
    )
    batch = data.slice(0, 30)
    user = embedding.table.weight[len(embedding.table.weight) - 41 - 11 : -11]
    assert torch.equal(embedding(batch)[0][:, schema.slices["user"]], user[batch.ids_BF[:, 2].long()])
    values, offsets = batch.bags[1]
    expected = mean_rows(user[values.long()], offsets)
    torch.testing.assert_close(embedding(batch)[0][:, schema.slices["history"]], expected)


def test_the_width_of_z_is_the_same_for_every_pooling(schema: Schema, data: SplitData) -> None:
    build = Build(schema=schema, seed=1)
    shapes = {
        FieldEmbedding(schema, build, pooling=Pooling(kind=kind))(data.slice(0, 9))[0].shape
        for kind in ("mean", "din", "dien")
    }
    assert shapes == {(9, schema.num_inputs)}


def test_the_pooling_does_not_change_other_fields(schema: Schema, data: SplitData) -> None:
    build, batch = Build(schema=schema, seed=1), data.slice(0, 20)
    mean, din = (
        FieldEmbedding(schema, build, pooling=Pooling(kind=kind))(batch)[0] for kind in ("mean", "din")
    )
    same = (mean == din).all(0)
    index = schema.slices["history"]
    assert same[: index.start].all()
    assert same[index.stop :].all()
    assert not same[index].any()


@pytest.mark.parametrize("kind", ["din", "dien"])
def test_the_target_is_the_field_that_the_card_names(schema: Schema, data: SplitData, kind: str) -> None:
    pooling, batch = Pooling(kind=kind), data.slice(0, 20)  # type: ignore[arg-type]
    embedding = FieldEmbedding(schema, Build(schema=schema, seed=1), pooling=pooling)
    has_choice = batch.bags[1][1].diff() > 1

    def history(column: int | None) -> torch.Tensor:
        ids_BF = batch.ids_BF.clone()
        if column is not None:
            ids_BF[:, column] = ids_BF[:, column] % 3 + 1
        return embedding(replace(batch, ids_BF=ids_BF))[0][:, schema.slices["history"]]

    assert torch.equal(history(0), history(None))
    assert torch.equal(history(1), history(None))
    assert (history(2) != history(None)).any(1)[has_choice & (batch.ids_BF[:, 2] > 3)].all()


@pytest.mark.parametrize("kind", ["mean", "din", "dien"])
def test_first_order_weights_are_averaged_under_every_pooling(
    schema: Schema, data: SplitData, kind: str
) -> None:
    embedding = FieldEmbedding(
        schema, Build(schema=schema, seed=1), first_order=True, pooling=Pooling(kind=kind)
    )
    embedding.table.weight.data[:, -1] = torch.arange(len(embedding.table.weight))
    batch = data.slice(0, 20)
    z_BN, weights_BF = embedding(batch)
    values, offsets = batch.bags[1]
    first = len(embedding.table.weight) - 41 - 11
    assert z_BN.shape == (20, schema.num_inputs)
    torch.testing.assert_close(weights_BF[:, -1:], mean_rows((first + values).float()[:, None], offsets))


@pytest.mark.parametrize("backbone", POOLED)
def test_scores_of_rows_are_independent(make: Model, data: SplitData, backbone: str) -> None:
    model = make(backbone=backbone).eval()
    for pooling in model.embedding.poolings:
        nn.init.normal_(pooling.empty_E)
    joint = model(data.slice(0, 40))
    alone = torch.cat([model(data.slice(row, row + 1)) for row in range(40)])
    torch.testing.assert_close(alone, joint, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("backbone", POOLED)
def test_a_batch_with_only_empty_sequences_trains(make: Model, data: SplitData, backbone: str) -> None:
    model = make(backbone=backbone)
    batch = without_history(data.slice(0, 12))
    step(model, Learner(), batch)
    assert model.embedding.poolings[0].empty_E.any()
    assert torch.isfinite(model.eval()(batch)).all()


def without_history(batch: Batch) -> Batch:
    values, offsets = batch.bags[1]
    return replace(batch, bags=(batch.bags[0], (values[:0], torch.zeros_like(offsets))))


def step(model: CTRModel, learner: Learner, batch: Batch) -> dict[str, torch.Tensor]:
    model.train()
    return dict(learner.step(model, Optimizer(model, AdamConfig(lr=0.01)), batch).logs)


def test_the_auxiliary_loss_is_a_penalty_in_training_only(make: Model, data: SplitData) -> None:
    batch = data.slice(0, 40)
    model = make(backbone="dnn[hidden=8-4,pooling=dien,pooling_aux=0.25]").train()
    torch.manual_seed(0)
    context = model.context(batch)
    loss = bce(model.net(context), batch.label_B)
    (penalty,) = context.penalties
    (figure,) = context.logs.values()
    assert list(context.logs) == ["pooling.history.aux"]
    # Near the start inner products are near zero, and either term near log 2.
    assert figure.item() == pytest.approx(2 * np.log(2), abs=0.01)
    torch.testing.assert_close(penalty, 0.25 * figure)
    torch.testing.assert_close(total_loss(loss, context), loss + 0.25 * figure)
    for other in (
        model.eval(),
        make(backbone="dnn[pooling=dien,pooling_aux=0]"),
        make(backbone="dnn[pooling=din]"),
    ):
        context = other.context(batch)
        other.net(context)
        assert context.penalties == []


def test_part_of_a_context_has_the_loss_of_its_rows(make: Model, data: SplitData) -> None:
    model = make().train()
    context = model.context(data.slice(0, 40))
    (whole,) = context.row_losses
    rows = torch.tensor([5, 2, 31])
    part = context.part(rows)
    model.net(part)
    expected = whole.sum_B[rows].sum() / whole.steps_B[rows].sum()
    torch.testing.assert_close(part.penalties[0], expected)
    detached = context.detached()
    model.net(detached)
    assert detached.penalties == []


LEARNERS = ["plain", "maml[support=20,query=20]", "mamdr", "pcgrad", "separate"]


@pytest.mark.parametrize("method", LEARNERS)
def test_the_auxiliary_loss_changes_the_steps_of_every_learner(
    make: Model, data: SplitData, method: str
) -> None:
    """Some parameter of the embeddings differs after a step with the loss."""
    backbones = [f"dnn[hidden=8-4,pooling=dien,pooling_aux={weight}]" for weight in (0, 100)]
    rewriter: Method = select("methods", method).value  # type: ignore[assignment]
    moved = []
    for backbone in backbones:
        model, learner = make(method, backbone), rewriter.learner()
        order = learner.order(data, batch_size=60, generator=np.random.default_rng(0))
        (batch, *_) = data.batches(order)
        torch.manual_seed(0)
        step(model, learner, batch)
        moved.append(
            {
                name: value.detach()
                for name, value in model.named_parameters()
                if name.startswith("embedding.")
            }
        )
    assert moved[0]
    assert not all(torch.equal(moved[0][name], moved[1][name]) for name in moved[0])


def test_with_a_model_per_domain_poolings_use_the_rows_of_their_domain(make: Model, data: SplitData) -> None:
    """Rows are pooled by the module of their own domain, and negatives are drawn from its rows."""
    model = make("separate").train()
    for number, pools in enumerate(model.embedding.poolings):
        nn.init.constant_(pools[0].empty_E, float(number + 1))
    batch = without_history(data.slice(0, 40))
    z_BN, _ = model.embedding(batch)
    history = z_BN[:, model.schema.slices["history"]]
    assert torch.equal(history, batch.indicator_B[:, None].float().expand(-1, E))
    batch, losses = data.slice(0, 40), []
    z_BN, _ = model.embedding(batch, None, losses)
    rows = torch.nonzero(batch.indicator_B == 2)[:, 0]
    own = data.take(rows)
    torch.testing.assert_close(model.embedding(own)[0], z_BN[rows])
    lengths = batch.bags[1][1].diff()
    assert torch.equal(losses[0].steps_B, (lengths - 1).clamp_min(0))


@pytest.mark.parametrize("method", ["plain", "maml[support=20,query=20]", "separate"])
@pytest.mark.parametrize("backbone", [*POOLED, "deepfm[pooling=dien]"])
def test_no_step_waits_for_a_value_on_the_device(
    make: Model, data: SplitData, monkeypatch: pytest.MonkeyPatch, method: str, backbone: str
) -> None:
    """The device `meta` has no values, so reading one fails."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    model, rows = make(method, backbone).to("meta"), data.to(torch.device("meta"))
    learner: Learner = select("methods", method).value.learner()  # type: ignore[union-attr]
    optimizer = Optimizer(model, AdamConfig())
    order = learner.order(rows, batch_size=64, generator=np.random.default_rng(0))
    for batch in rows.batches(order):
        assert learner.step(model, optimizer, batch).loss.is_meta


def test_the_auxiliary_loss_of_dien_falls_when_sequences_are_predictable(schema: Schema) -> None:
    """User j is always followed by j + 1, so the loss falls far below that of random guesses."""
    generator = np.random.default_rng(1)
    start = generator.integers(1, 36, 200)
    values = torch.from_numpy((start[:, None] + np.arange(5)).ravel().astype(np.int32))
    offsets = torch.arange(0, 1001, 5)
    embedding = FieldEmbedding(schema, Build(schema=schema, seed=1), pooling=Pooling(kind="dien"))
    adam = torch.optim.Adam(embedding.parameters(), lr=0.02)
    torch.manual_seed(0)
    means = []
    pool = embedding.poolings[0]
    for _ in range(150):
        rows = embedding.table.weight[values.long()]
        _, loss = pool(rows, offsets, rows[::5])
        means.append(loss.mean())
        adam.zero_grad()
        means[-1].backward()
        adam.step()
    assert means[0].item() == pytest.approx(2 * np.log(2), abs=0.01)
    assert means[-1].item() < 0.7


# --- settings ---


def test_a_pooling_needs_a_sequence_with_a_target(schema: Schema) -> None:
    plain = replace(schema, fields=tuple(replace(field, target=None) for field in schema.fields))
    plan = select("backbones", "dnn[pooling=din]").value.full_plan()  # type: ignore[union-attr]
    with pytest.raises(SettingError, match="pooling=din compares sequences with their target"):
        CTRModel(plan, plain, seed=1)
    CTRModel(replace(plan, pooling=Pooling()), plain, seed=1)


def test_a_sequence_whose_target_is_hidden_counts_as_one_without(schema: Schema) -> None:
    hidden = replace(schema, hidden=("user",))
    assert hidden.targets == {}
    assert [field.name for field in hidden.table_fields] == ["city", "age", "tags", "history"]
    plan = select("backbones", "dnn[pooling=dien]").value.full_plan()  # type: ignore[union-attr]
    with pytest.raises(SettingError, match="a field that the model uses"):
        CTRModel(plan, hidden, seed=1)


@pytest.mark.parametrize("pooling", ["mean", "din"])
def test_the_weight_of_the_auxiliary_loss_needs_dien(pooling: str) -> None:
    with pytest.raises(SettingError, match="pooling_aux has no effect"):
        _ = select("backbones", f"dnn[pooling={pooling},pooling_aux=0.5]").value


def test_every_backbone_has_the_pooling_settings() -> None:
    for name in ("dnn", "dcnv2", "deepfm"):
        plan = select("backbones", f"{name}[pooling=dien,pooling_aux=0.5]").value.full_plan()  # type: ignore[union-attr]
        assert plan.pooling == Pooling(kind="dien", aux_weight=0.5)


def test_default_pooling_is_not_part_of_a_run_key() -> None:
    assert not {"pooling", "pooling_aux"} & set(select("backbones", "dnn").value.key())
    assert select("backbones", "dnn[pooling=din]").value.key()["pooling"] == "din"


def test_part_of_a_context_has_the_behaviors_of_its_rows(schema: Schema, data: SplitData) -> None:
    plan = replace(select("backbones", "dnn[hidden=8-4]").value.full_plan(), attends=True)  # type: ignore[union-attr]
    model, rows = CTRModel(plan, schema, seed=1), torch.tensor([5, 2, 31])
    whole, own = model.context(data.slice(0, 40)), model.context(data.take(rows)).behaviors["history"]
    for part in (
        whole.part(rows).behaviors["history"],
        whole.part(slice(0, 40)).part(rows).behaviors["history"],
    ):
        assert torch.equal(part.rows_nE, own.rows_nE)
        assert torch.equal(part.lists.offsets, own.lists.offsets)
        assert torch.equal(part.target_BE, own.target_BE)
    assert own.rows_nE.requires_grad
    assert not whole.detached().behaviors["history"].rows_nE.requires_grad
    assert CTRModel(replace(plan, attends=False), schema, seed=1).context(data.slice(0, 9)).behaviors == {}
