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
from ctrbench.extend import Method
from ctrbench.nn.build import Build
from ctrbench.nn.embed import FieldEmbedding
from ctrbench.nn.lists import Lists
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.pooling import Dien, Din, Pooling, Recurrence, SequencePooling
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner, bce, total_loss

LENGTHS = [3, 0, 1, 5, 2, 0]
E = 4
Array = np.ndarray


def bag(lengths: Array, generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = generator.integers(1, 41, offsets[-1]).astype(np.int32)
    return torch.from_numpy(values), torch.from_numpy(offsets)


@pytest.fixture
def build(history_schema: Schema) -> Build:
    return Build(schema=history_schema, seed=3)


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


POOLED = ["dnn[hidden=8-4,pooling=din]", "dnn[hidden=8-4,pooling=dien]"]


@pytest.mark.parametrize("backbone", POOLED)
def test_a_batch_with_only_empty_sequences_trains(
    build_with_history: Model, history_data: SplitData, backbone: str
) -> None:
    model = build_with_history(backbone=backbone)
    batch = without_history(history_data.slice(0, 12))
    step(model, Learner(), batch)
    assert model.embedding.poolings[0].empty_E.any()
    assert torch.isfinite(model.eval()(batch)).all()


def without_history(batch: Batch) -> Batch:
    values, offsets = batch.bags[1]
    return replace(batch, bags=(batch.bags[0], (values[:0], torch.zeros_like(offsets))))


def step(model: CTRModel, learner: Learner, batch: Batch) -> dict[str, torch.Tensor]:
    model.train()
    return dict(learner.step(model, Optimizer(model, AdamConfig(lr=0.01)), batch).logs)


def test_the_auxiliary_loss_is_a_penalty_in_training_only(
    build_with_history: Model, history_data: SplitData
) -> None:
    batch = history_data.slice(0, 40)
    model = build_with_history(backbone="dnn[hidden=8-4,pooling=dien,pooling_aux=0.25]").train()
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
        build_with_history(backbone="dnn[pooling=dien,pooling_aux=0]"),
        build_with_history(backbone="dnn[pooling=din]"),
    ):
        context = other.context(batch)
        other.net(context)
        assert context.penalties == []


LEARNERS = ["plain", "maml[support=20,query=20]", "mamdr", "pcgrad", "separate"]


@pytest.mark.parametrize("method", LEARNERS)
def test_the_auxiliary_loss_changes_the_steps_of_every_learner(
    build_with_history: Model, history_data: SplitData, method: str
) -> None:
    """Some parameter of the embeddings differs after a step with the loss."""
    backbones = [f"dnn[hidden=8-4,pooling=dien,pooling_aux={weight}]" for weight in (0, 100)]
    rewriter: Method = select("methods", method).value  # type: ignore[assignment]
    moved = []
    for backbone in backbones:
        model, learner = build_with_history(method, backbone), rewriter.learner()
        order = learner.order(history_data, batch_size=60, generator=np.random.default_rng(0))
        (batch, *_) = history_data.batches(order)
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


def test_with_a_model_per_domain_poolings_use_the_rows_of_their_domain(
    build_with_history: Model, history_data: SplitData
) -> None:
    """Rows are pooled by the module of their own domain, and negatives are drawn from its rows."""
    model = build_with_history("separate").train()
    for number, pools in enumerate(model.embedding.poolings):
        nn.init.constant_(pools[0].empty_E, float(number + 1))
    batch = without_history(history_data.slice(0, 40))
    z_BN, _ = model.embedding(batch)
    history = z_BN[:, model.schema.slices["history"]]
    assert torch.equal(history, batch.indicator_B[:, None].float().expand(-1, E))
    batch, losses = history_data.slice(0, 40), []
    z_BN, _ = model.embedding(batch, None, losses)
    rows = torch.nonzero(batch.indicator_B == 2)[:, 0]
    own = history_data.take(rows)
    torch.testing.assert_close(model.embedding(own)[0], z_BN[rows])
    lengths = batch.bags[1][1].diff()
    assert torch.equal(losses[0].steps_B, (lengths - 1).clamp_min(0))


def test_the_auxiliary_loss_of_dien_falls_when_sequences_are_predictable(history_schema: Schema) -> None:
    """User j is always followed by j + 1, so the loss falls far below that of random guesses."""
    generator = np.random.default_rng(1)
    start = generator.integers(1, 36, 200)
    values = torch.from_numpy((start[:, None] + np.arange(5)).ravel().astype(np.int32))
    offsets = torch.arange(0, 1001, 5)
    embedding = FieldEmbedding(
        history_schema, Build(schema=history_schema, seed=1), pooling=Pooling(kind="dien")
    )
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
